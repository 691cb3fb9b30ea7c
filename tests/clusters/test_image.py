"""Covers clusters/Dockerfile and .dockerignore. No Docker is needed: a linter reads the file, and
the slow test runs its `pip` line in a new environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "clusters/Dockerfile"
IGNORED = (ROOT / ".dockerignore").read_text().split("\n")


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run(
        [hadolint, DOCKERFILE], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stdout


def test_two_stages_on_one_pinned_base():
    bases = [words.split()[0] for name, words in instructions() if name == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-\w+", bases[0])


def test_the_image_has_the_cuda_that_torch_was_built_for():
    """constraints.txt pins torch; its packages say which CUDA runtime they bring."""
    import torch

    base = next(words for name, words in instructions() if name == "FROM")
    cuda = re.search(r":(\d+\.\d+)\.", base).group(1)
    if torch.version.cuda is None:
        pytest.skip("this torch was built without CUDA")
    assert torch.version.cuda == cuda


def test_the_user_has_no_rights():
    users = [words for name, words in instructions() if name == "USER"]
    assert users == ["1000"]
    assert "useradd --uid 1000" in DOCKERFILE.read_text()


def test_everything_is_pinned_by_the_constraints():
    installs = [words for name, words in instructions() if name == "RUN" and "pip install" in words]
    assert len(installs) == 1
    assert "--constraint constraints.txt" in installs[0]


def test_python_is_the_one_that_the_pins_were_tested_with():
    named = set(re.findall(r"python3\.(\d+)", DOCKERFILE.read_text()))
    assert named == {"11"}
    setup = (ROOT / "clusters/node/setup.sh").read_text()
    assert "--python 3.11" in setup


def test_copied_files_exist_and_are_not_ignored():
    for name, words in instructions():
        if name != "COPY" or words.startswith("--from"):
            continue
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source not in IGNORED


def test_no_secret_and_no_run_gets_into_a_layer():
    assert {".git", "runs", ".venv", "**/auth_token", "**/*.pem"} <= set(IGNORED)
    for needed in ("diffmix", "engine", "jobs", "pyproject.toml", "constraints.txt"):
        assert needed not in IGNORED


@pytest.mark.slow
def test_the_pip_line_gives_an_environment_that_runs(tmp_path):
    """The build's copies and `RUN` lines after the system packages, in a folder that stands for
    /app: with empty packages first, as in the image, and the sources after that.
    """
    app, venv = tmp_path / "app", tmp_path / "venv"
    app.mkdir()
    stage = instructions()
    stage = stage[: [name for name, _ in stage].index("FROM", 1)]
    for name, words in stage:
        if name == "COPY":
            for source in words.split()[:-1]:
                shutil.copy(ROOT / source, app)
        if name == "RUN" and "dnf" not in words:
            command = words.replace("/opt/venv", str(venv)).replace("python3.11", sys.executable)
            subprocess.run(["bash", "-c", command], cwd=app, check=True)
    for package in ("diffmix", "engine", "jobs"):
        shutil.copytree(ROOT / package, app / package, dirs_exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = "import diffmix, engine.run, ray; print(diffmix.__file__, ray.__version__)"
    said = []
    for command in ([venv / "bin/diffmix", "--help"], [venv / "bin/python", "-c", line]):
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        said.append(result.stdout)
    assert "personalize" in said[0]
    assert str(app / "diffmix/__init__.py") in said[1]
