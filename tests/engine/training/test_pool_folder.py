"""A pool's folder goes with its worker, and those of killed workers are swept."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from diffmix.errors import UserError
from engine.testing import mix_table
from engine.training import pool as module
from engine.training.pool import PoolWriter, pool_folder, sweep


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_name_says_run_and_rank_and_the_folder_is_removed(tmp_path):
    with pool_folder("run a", 0) as first, pool_folder("run b", 0) as second:
        with pool_folder("run a", 3) as third:
            assert len({first, second, third}) == 3
            assert Path(first).name.split("-rank")[0] == Path(third).name.split("-rank")[0]
            assert "-rank3-" in third
            assert "-rank0-" in first
        assert sorted(map(str, tmp_path.iterdir())) == sorted([first, second])
        assert sweep() == []
    assert list(tmp_path.iterdir()) == []


def test_a_killed_workers_folder_is_swept_by_the_next(tmp_path):
    code = (
        "import os, sys, signal, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from engine.training.pool import pool_folder\n"
        "with pool_folder('run', 1) as folder:\n"
        "    open(os.path.join(folder, 'part.arrow'), 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert sorted(file.name for file in left.iterdir()) == ["owner.lock", "part.arrow"]
    with pool_folder("another run", 0) as folder:
        assert list(map(str, tmp_path.iterdir())) == [folder]


def test_a_small_disk_is_named_before_training(monkeypatch):
    usage = module.shutil.disk_usage("/")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=10**8))
    with pool_folder("run", 0, 10**7):
        pass
    with (
        pytest.raises(UserError, match=r"need about 150 MB, but its disk has 100 MB free"),
        pool_folder("run", 0, 10**8),
    ):
        pass
    assert os.listdir(tempfile.gettempdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path):
    pool = PoolWriter(str(tmp_path))
    pool.add(mix_table(2))
    pool.flush()
    (tmp_path / "000000000002-3.arrow.tmp").symlink_to("/dev/full")
    pool.add(mix_table(3))
    with pytest.raises(UserError, match=r"The pool of mixes in .* cannot be written \(No space"):
        pool.flush()
    assert len(pool) == 2
