import errno
import os
from pathlib import Path

import pytest

from diffmix.errors import UserError
from diffmix.files.node_copy import cache_folder, copy_path, once_a_node


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFMIX_CACHE", str(tmp_path / "cache"))


def test_the_cache_is_where_the_variable_says(tmp_path, monkeypatch):
    assert cache_folder() == str(tmp_path / "cache")
    assert os.path.dirname(copy_path("s3://a", 1)) == str(tmp_path / "cache")
    assert copy_path("s3://a", 1) != copy_path("s3://a", 2)
    monkeypatch.delenv("DIFFMIX_CACHE")
    assert cache_folder().endswith(f"diffmix-cache-{os.getuid()}")


def test_what_is_there_is_not_made_again():
    made = []

    def make(to: str) -> None:
        made.append(to)
        Path(to).write_text("x")

    path = copy_path("s3://a")
    assert once_a_node(path, make) == once_a_node(path, make) == path
    assert len(made) == 1
    assert Path(path).read_text() == "x"


def test_a_failed_copy_leaves_nothing_and_is_tried_again():
    def broken(to: str) -> None:
        os.makedirs(to)
        Path(to, "half").write_text("x")
        raise RuntimeError("the connection broke")

    path = copy_path("s3://a")
    with pytest.raises(RuntimeError):
        once_a_node(path, broken)
    assert [name for name in os.listdir(cache_folder()) if not name.endswith(".lock")] == []
    once_a_node(path, os.makedirs)
    assert os.path.isdir(path)


def test_a_full_disk_is_named():
    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"cache \(No space left.*DIFFMIX_CACHE"):
        once_a_node(copy_path("s3://a"), full)


def test_of_six_processes_one_makes_it(tmp_path, six_at_once):
    """Each appends a line to a file when it makes the copy, and waits for the others before."""
    script = f"""
import os, sys, time
from pathlib import Path
from diffmix.files.node_copy import copy_path, once_a_node
def make(to):
    with open({str(tmp_path / "made")!r}, "a") as file:
        file.write("made\\n")
    Path(to).write_text("x")
print("ready", flush=True)
sys.stdin.readline()
print(Path(once_a_node(copy_path("s3://a"), make)).read_text())
"""
    assert six_at_once(script) == ["x"] * 6
    assert (tmp_path / "made").read_text() == "made\n"
