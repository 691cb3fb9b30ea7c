"""docs/extending.md: every example runs, and a file of it in the package needs nothing else."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from diffmix import gates, images, strategies
from diffmix.datasets import named
from diffmix.options.registry import Registry
from engine.mixing.store import MixStore

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.S | re.M)
)
FILES = dict(
    re.findall(r"```python\n# FILE (\w+)\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
)
"""Module name -> source."""
USES = {
    title: blocks
    for title, section in SECTIONS.items()
    if (blocks := re.findall(r"```python\n(?!# FILE)(.*?)```", section, re.S))
}
"""Section -> what uses its file."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the path with all files of the page, which is also the current one."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def installed(registry: Registry, file: Path, monkeypatch) -> Registry:
    """The registry with a file more in its package."""
    registry.names()  # what the end of the test restores
    extra = file.parent / registry.package
    extra.mkdir()
    (extra / file.name).write_text(file.read_text())
    package = importlib.import_module(registry.package)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(extra)])
    importlib.invalidate_caches()
    monkeypatch.delitem(registry.__dict__, "entries")
    return registry


def test_the_page_has_an_example_of_each():
    assert set(FILES) == {"away", "brightness", "leaves", "csv_losses", "never_itself"}
    assert list(USES) == [
        "A strategy",
        "A gate",
        "A published data set",
        "A tracker of metrics",
        "Weights of (source, target)",
    ]


@pytest.mark.parametrize("title", [title for title in USES if title != "A published data set"])
def test_the_examples_run(folder, title):
    for block in USES[title]:
        exec(compile(block, f"{PAGE.name}: {title}", "exec"), {"__name__": "example"})


@pytest.mark.slow
def test_a_job_takes_a_strategy_and_a_gate_of_ones_own(folder):
    """The modules are on PYTHONPATH alone, so Ray's workers import them."""
    options = {
        "out": str(folder / "out"),
        "data.train": "nano",
        "data.shots": "4",
        "model.base": "nano",
        "mix.strategy": "away:AWAY",
        "mix.count": "8",
        "mix.batch": "4",
        "mix.num_inference_steps": "4",
        "mix.image_format": "png",
        "gate.kind": "brightness:BrightnessGate",
        "gate.threshold": "0.3",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    path = os.pathsep.join([str(folder), str(PAGE.parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "synthesize", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    mixes = pa.concat_tables(MixStore(str(folder / "out" / "mixes")).tables())
    gray = [np.mean(images.decode(i).convert("L")) / 255 for i in mixes["image"].to_pylist()]
    assert np.allclose(mixes["score"].to_numpy(), gray)
    assert mixes["accepted"].to_pylist() == [value >= 0.3 for value in gray]


def test_a_strategy_is_one_file(folder, monkeypatch):
    registry = installed(strategies.REGISTRY, folder / "away.py", monkeypatch)
    assert "base-away" in registry.names()
    assert strategies.find("base-away").negative_prompt.__name__ == "source_prompt"


def test_a_gate_is_one_file(folder, monkeypatch):
    installed(gates.REGISTRY, folder / "brightness.py", monkeypatch)
    assert "brightness" in gates.names()
    assert gates.find("brightness").__name__ == "BrightnessGate"


def test_a_data_set_is_one_file(folder, monkeypatch):
    copy = folder / "copy_of_leaves"
    copy.mkdir()
    (copy / "train.txt").write_text("a.jpg oak\nb.jpg fern\n")
    (copy / "test.txt").write_text("c.jpg oak\n")
    installed(named.REGISTRY, folder / "leaves.py", monkeypatch)
    for block in USES["A published data set"]:
        exec(compile(block, PAGE.name, "exec"), {"__name__": "example"})
    assert "leaves" in named.names()
    from jobs.options_page import page

    assert "leaves" in page()
