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
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs
from filelock import FileLock

from diffmix.errors import UserError, reason

CACHE = "DIFFMIX_CACHE"
"""Environment variable with the folder of a node's copies."""
_THREADS = 16
_COPY_BYTES = 16 * 2**20  # an object store's answer takes as long for 1 MB as for 16
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


def copied_file(uri: str, remote: pafs.FileSystem, path: str) -> str:
    """The path of this node's copy of a file: `path` in `remote`, which is at `uri`. A file that
    has changed since is copied again. Raises `FileNotFoundError` where there is none.
    """
    info = remote.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(uri)
    return once_a_node(_file_copy(uri, info), lambda to: download(remote, path, to))


def copied_folder(
    uri: str, remote: pafs.FileSystem, path: str, only: Container[str] | None = None
) -> str:
    """The same for a folder and all below it; empty where there is none. `only` names the files and
    folders in it that are wanted; None: all.
    """
    infos = []
    for info in remote.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True)):
        top = _below(info, path).partition("/")[0]
        if info.type == pafs.FileType.File and (only is None or top in only):
            infos.append(info)

    def fill(to: str) -> None:
        os.makedirs(to)

        def one(info: pafs.FileInfo) -> None:
            file = os.path.join(to, _below(info, path))
            os.makedirs(os.path.dirname(file), exist_ok=True)
            download(remote, info.path, file)

        with ThreadPoolExecutor(_THREADS) as threads:
            for _ in threads.map(one, infos):
                pass

    identity = sorted((info.path, info.size, info.mtime_ns) for info in infos)
    return once_a_node(copy_path(uri, *identity), fill)


def copied(uri: str, remote: pafs.FileSystem, path: str) -> str:
    """The same for what may be a file or a folder. A file keeps its name, because some readers go
    by the suffix. Raises `UserError` where there is nothing.
    """
    info, name = remote.get_file_info(path), os.path.basename(path)
    if info.type == pafs.FileType.File:

        def fetch(to: str) -> None:
            os.makedirs(to)
            download(remote, path, os.path.join(to, name))

        folder = once_a_node(copy_path(uri, "named", info.size, info.mtime_ns), fetch)
        return os.path.join(folder, name)
    found = copied_folder(uri, remote, path) if info.type == pafs.FileType.Directory else None
    if found is None or not os.listdir(found):
        raise UserError(f"There is nothing at {uri}; check the bucket and the path in it.")
    return found


def keep_as_copy(local: str, uri: str, remote: pafs.FileSystem, path: str) -> None:
    """Make the file `local`, which has just been written to `uri`, this node's copy of it."""

    def move(to: str) -> None:
        shutil.move(local, to)

    once_a_node(_file_copy(uri, remote.get_file_info(path)), move)


def download(remote: pafs.FileSystem, path: str, to: str) -> None:
    """Copy one remote file to a local path."""
    pafs.copy_files(path, to, source_filesystem=remote, chunk_size=_COPY_BYTES)


def _file_copy(uri: str, info: pafs.FileInfo) -> str:
    return copy_path(uri, info.size, info.mtime_ns)


def _below(info: pafs.FileInfo, folder: str) -> str:
    return str(info.path[len(folder) :].strip("/"))


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
