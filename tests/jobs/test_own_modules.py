"""A user's own modules beside ours: the console script works, other ways are refused in a sentence.

Covers `jobs/run.py` too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path):
    """Runs `python *words` in a project's folder that has these files, with nothing but the project
    on the path; gives exit code and standard error.
    """

    def start(files: list[str], words: list[str], path: str) -> tuple[int, str]:
        project = tmp_path / "project"
        for name in files:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text("raise ImportError('the module of the user')\n")
        done = subprocess.run(
            [sys.executable, *words],
            cwd=project,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    return start


OTHERS = [
    "main.py",
    "util/misc.py",
    "models/__init__.py",
    "datasets/red/1.jpg",
    "tests/__init__.py",
]
"""Files that hide nothing of ours; `datasets` is a folder of images."""
RUN = ["-m", "jobs.run", "--no.option", "1"]


@pytest.mark.parametrize(
    ("file", "whose"),
    [
        ("engine.py", "this project's own"),
        ("engine/__init__.py", "this project's own"),
        ("diffmix.py", "this project's own"),
        ("datasets/__init__.py", "a library's"),
        ("timm.py", "a library's"),
        ("queue.py", "a library's"),
    ],
)
def test_a_module_that_hides_another_is_one_sentence(start, tmp_path, file, whose):
    code, error = start([file], RUN, str(ROOT))
    name = file.split("/")[0].removesuffix(".py")
    assert code == 2, error
    assert error.startswith(f"diffmix: {tmp_path}/project has a module {name}, which hides {whose}")
    assert error.count("\n") == 1


def test_a_folder_on_the_path_is_refused_too(start):
    script = ["-c", "import sys; from jobs.cli import main; sys.exit(main(['run']))"]
    code, error = start(["engine.py"], script, f".:{ROOT}")
    assert code == 2
    assert "has a module engine, which hides this project's own" in error


def test_what_hides_nothing_is_no_matter(start):
    code, error = start(OTHERS, RUN, str(ROOT))
    assert (code, error.split()[1:3]) == (2, ["--no.option", "is"])


def test_the_console_script_does_not_look_there(start, tmp_path):
    script = tmp_path / "bin" / "diffmix"
    script.parent.mkdir()
    script.write_text(
        "import sys; from jobs.cli import main; sys.exit(main(['run', '--no.option', '1']))"
    )
    code, error = start([*OTHERS, "engine.py", "datasets.py"], [str(script)], str(ROOT))
    assert (code, error.split()[1:3]) == (2, ["--no.option", "is"])
