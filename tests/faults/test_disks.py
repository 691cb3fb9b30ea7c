"""A disk that fills up, and one that becomes read-only, in the middle of a run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from diffmix.errors import UserError
from engine.run import run_mixing

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=False, capture_output=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Take all the space that is left."""
    with open(disk / "filler", "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free)
        except OSError:
            file.truncate(0)
            raise


def read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def mend(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    (disk / "filler").unlink(missing_ok=True)


@pytest.mark.parametrize("break_it", [fill, read_only])
def test_a_disk_that_takes_nothing_more_is_one_sentence_and_the_run_resumes(
    disk, tmp_path, small_config, when, parts, break_it
):
    out = disk / "out"
    config = small_config(out, **{"mix.count": 160, "run.mode": "staged"})
    when(lambda: len(parts(out)) >= 5, lambda: break_it(disk))
    with pytest.raises(UserError, match=r"cannot be written"):
        run_mixing(config)
    mend(disk)
    kept = parts(out)
    assert len(kept) >= 5
    summary = run_mixing(config)
    assert summary["plan"]["stored"] == 160
    assert summary["plan"]["set_aside"] == 0
    made = parts(out)
    assert all(made[name] == data for name, data in kept.items())
