"""The examples run, in the order in which a reader would run them. They share one small folder of
mixes, made without a cluster.
"""

import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: object) -> str:
    """What an example prints, run in this process from the repository's root."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(ROOT)
        patch.syspath_prepend(str(EXAMPLES))
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return printed.getvalue()


@pytest.fixture(scope="session")
def by_hand(tmp_path_factory) -> Path:
    """The folder that `mix_without_a_cluster.py` wrote."""
    folder = tmp_path_factory.mktemp("examples") / "by_hand"
    printed = run("mix_without_a_cluster.py", folder, "--steps", 2, "--mixes", 24)
    assert printed == f"24 mixes of 10 classes are in {folder}/mixes.\n"
    return folder


def test_mixing_without_a_cluster(by_hand):
    mixes = by_hand / "mixes" / "data"
    names = [path.relative_to(mixes) for path in mixes.rglob("*.png")]
    assert len(names) == 24
    assert all(re.fullmatch(r"\d/\d-\d{6}-0\.[79]\.png", name.as_posix()) for name in names)
    assert (by_hand / "concept" / "concept.json").exists()


def test_mixing_without_a_cluster_imports_no_ray():
    code = f"""
import contextlib, runpy, sys
sys.argv = ["mix_without_a_cluster.py", "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_path({str(EXAMPLES / "mix_without_a_cluster.py")!r}, run_name="__main__")
assert "diffmix.generator.mixer" in sys.modules
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_a_strategy_of_ones_own(by_hand, tmp_path):
    sheet = tmp_path / "away.png"
    printed = run("own_strategy.py", by_hand, sheet)
    assert printed == f"{sheet} shows 4 mixes with and without the strategy.\n"
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    # Two columns of 128 px after the source's, 8 px apart: the same mixes, guided differently.
    first, second = (pixels[:, left : left + 128] for left in (158, 294))
    assert np.abs(first - second).max() > 20


def test_training_on_foreign_mixes(by_hand, cluster, tmp_path):
    arguments = [by_hand / "mixes", tmp_path / "out", "--epochs", 2]
    printed = run("train_on_foreign_mixes.py", *arguments)
    assert "24 mixes of reference layout." in printed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["trainer"]["synthetic_share"] == pytest.approx(0.3, abs=0.1)
    assert f"top-1 on 1200 test images: {summary['accuracy']['top1']:.3f}" in printed


def test_the_notebook_is_kept_as_it_ran():
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds == {"execute_result", "stream"}, "neither errors nor noise"
    streams = [o["name"] for cell in code for o in cell["outputs"] if o["output_type"] == "stream"]
    assert streams == ["stdout"]


@pytest.mark.slow
@pytest.mark.cluster
def test_the_notebook_runs(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", 4)
    kept = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    made = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    shapes = [[output.output_type for output in outputs] for outputs in made]
    assert shapes == [[output.output_type for output in outputs] for outputs in kept]
    html = "".join(output.data.get("text/html", "") for output in made[3])
    assert html.count("<img") == 8
    assert (tmp_path / "runs" / "notebook" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.cluster
def test_the_ten_line_job(tmp_path):
    """In full size: it is what `make demo` runs."""
    code = (EXAMPLES / "ten_line_job.py").read_text(encoding="utf-8")
    assert 'out="runs/ten_lines"' in code
    script = tmp_path / "ten_line_job.py"
    script.write_text(code.replace("runs/ten_lines", str(tmp_path / "out")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"top-1 with(?:out)? mixes: (\S+)", done.stdout)
    without, with_mixes = map(float, found)
    assert with_mixes > without > 0.5
