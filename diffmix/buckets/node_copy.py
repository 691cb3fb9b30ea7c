"""Copies of remote files that the processes of one node share. The first process that needs a copy
makes it, and the others wait for it at a file lock.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable

from filelock import FileLock

from diffmix.errors import UserError, reason

CACHE = "DIFFMIX_CACHE"
"""Environment variable with the folder of a node's copies."""
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def cache_folder() -> str:
    """Where this node's copies lie: `DIFFMIX_CACHE`, else a folder in the system's temporary one.
    Machines are shared, so each user has a folder of their own there.
    """
    given = os.environ.get(CACHE)
    return given or os.path.join(tempfile.gettempdir(), f"diffmix-cache-{os.getuid()}")


def copy_path(*identity: object) -> str:
    """The place of a copy, there or not. `identity` is its URI and what changes when it does."""
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    return os.path.join(cache_folder(), key)


def once_a_node(path: str, make: Callable[[str], None]) -> str:
    """`path`, a file or folder of the cache, after `make` has made it where it is missing.

    `make` writes to another path, which is then renamed: a process that dies leaves no half copy.
    Of processes that come at the same time, one makes it. Raises `UserError` where the node's disk
    cannot hold it.
    """
    if os.path.exists(path):
        return path
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not os.path.exists(path):
                _make(path, make)
    except OSError as error:
        if error.errno not in _OF_DISKS:
            raise
        raise UserError(
            f"A copy cannot be kept in {os.path.dirname(path)} ({reason(error)}); free some space "
            f"there or set {CACHE} to a folder on a larger disk."
        ) from error
    return path


def _make(path: str, make: Callable[[str], None]) -> None:
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        make(temporary)
        os.replace(temporary, path)
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.remove(temporary)
