"""The folder of a train worker's pool: whose it is, whether its disk is large enough, and what
becomes of the folders that killed workers have left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator

from diffmix.errors import UserError

_PREFIX = "diffmix-pool-"
_OWNER = "owner.lock"
_SPARE_BYTES = 50_000_000


@contextlib.contextmanager
def pool_folder(run: str, rank: int, need: int = 0) -> Iterator[str]:
    """An empty folder on this machine's disk for the pool of one rank, removed at the end.

    Its name is made of the run (the path or URI of its folder) and the rank. The folders of dead
    workers of this user, whatever their run, are swept at the start and at the end. `need` is the
    size in bytes that the pool is expected to reach. `UserError` where the disk has less.
    """
    sweep()
    folder = _path(run, rank)
    with contextlib.ExitStack() as stack:
        stack.callback(sweep)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(_owned(folder))
        check_disk(folder, need)
        yield folder


def sweep() -> list[str]:
    """Remove the pools whose worker is dead, and give their paths. A pool that is in use stays."""
    swept = []
    root = tempfile.gettempdir()
    for name in sorted(os.listdir(root)):
        folder = os.path.join(root, name)
        if name.startswith(_own_prefix()) and _is_free(folder):
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
    return swept


def check_disk(folder: str, need: int) -> None:
    """Raise `UserError` where the folder's disk has less than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if need and free < need + _SPARE_BYTES:
        raise UserError(
            f"The pool of mixes in {folder} on {socket.gethostname()} will need about "
            f"{(need + _SPARE_BYTES) / 1e6:.0f} MB, but its disk has {free / 1e6:.0f} MB free; "
            "free some, set TMPDIR to a larger disk where Ray is started, or raise "
            "--placement.trainers."
        )


@contextlib.contextmanager
def _owned(folder: str) -> Iterator[None]:
    """Make the folder and hold its lock, until the block or this process ends, however it ends."""
    building = tempfile.mkdtemp(prefix="diffmix-new-pool-")
    with open(os.path.join(building, _OWNER), "w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        os.rename(building, folder)  # a sweeper never sees the folder without its lock
        yield


def _own_prefix() -> str:
    """Machines are shared, so each user sweeps their own folders only."""
    return f"{_PREFIX}{os.getuid()}-"


def _path(run: str, rank: int) -> str:
    """With the number of the process: the worker that this one replaces may still be dying."""
    key = hashlib.sha256(run.encode()).hexdigest()[:12]
    name = f"{_own_prefix()}{key}-rank{rank}-{os.getpid()}"
    return os.path.join(tempfile.gettempdir(), name)


def _is_free(folder: str) -> bool:
    """Whether nobody holds the folder's lock."""
    try:
        with open(os.path.join(folder, _OWNER)) as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
