"""A train worker's growing pool of mixes: append-only Arrow IPC files on its own disk,
memory-mapped.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from diffmix.errors import UserError, reason

COLUMNS = ["image", "source_label", "target_label", "strength"]
IDENTITY = "mix_id"
"""Kept beside `COLUMNS`, so that a pool's files say which mixes they hold."""
FLUSH_ROWS = 512
FLUSH_SECONDS = 1.0
FLUSH_SHARE = 1 / 256
_PREFIX = "diffmix-pool-"
_OWNER = "owner.lock"
_SPARE_BYTES = 50_000_000


class Mix(NamedTuple):
    """What training needs of a mix."""

    image: bytes
    """The encoded image, as the store has it."""
    source_label: int
    target_label: int
    strength: float


class PoolWriter:
    """Adds mixes to a pool. One train worker owns it: its stream thread calls `add`, its sampler
    calls `len`. Files are never changed.

    A file is written when `FLUSH_ROWS` mixes have been gathered. It is also written after
    `FLUSH_SECONDS`, if the gathered mixes are at least `FLUSH_SHARE` of the pool. A slow stream's
    mixes are thus used while they still matter, and a million mixes make some thousand files at any
    pace. (Every reader maps each file, and a Linux process may hold 65,530 maps.)
    """

    def __init__(self, folder: str):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self._size = 0
        self._starts: list[int] = []
        self._targets: list[np.ndarray] = []
        self._waiting: list[pa.Table] = []
        self._last_flush = time.monotonic()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Mixes that a reader can see."""
        return self._size

    def targets(self, start: int) -> np.ndarray:
        """int32 [mixes]: the target classes of the mixes from number `start` on that a reader can
        see.
        """
        if start >= self._size:
            return np.empty(0, dtype=np.int32)
        file = bisect.bisect_right(self._starts, start) - 1
        return np.concatenate(self._targets[file:])[start - self._starts[file] :]

    def add(self, mixes: pa.Table) -> None:
        """Append mixes (columns of `store.SCHEMA`); the rejected ones are left out."""
        if "accepted" in mixes.column_names:
            mixes = mixes.filter(mixes["accepted"])
        with self._lock:
            if len(mixes):
                identity = [IDENTITY] if IDENTITY in mixes.column_names else []
                self._waiting.append(mixes.select([*identity, *COLUMNS]))
            if self._is_due():
                self._flush()

    def flush(self) -> None:
        """Write the gathered mixes, so that readers see everything that was added."""
        with self._lock:
            self._flush()

    def _is_due(self) -> bool:
        rows = sum(len(table) for table in self._waiting)
        late = time.monotonic() - self._last_flush >= FLUSH_SECONDS
        return rows >= FLUSH_ROWS or (late and rows >= self._size * FLUSH_SHARE)

    def _flush(self) -> None:
        self._last_flush = time.monotonic()
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting = []
        path = os.path.join(self.folder, _file_name(self._size, len(table)))
        try:
            with (
                pa.OSFile(path + ".tmp", "wb") as sink,
                pa.ipc.new_file(sink, table.schema) as writer,
            ):
                writer.write_table(table)
            os.replace(path + ".tmp", path)
        except OSError as error:
            raise UserError(
                f"The pool of mixes in {self.folder} on {socket.gethostname()} cannot be written "
                f"({reason(error)}); free some space, or set TMPDIR to a larger disk where Ray is "
                "started, and give the same command again."
            ) from error
        self._starts.append(self._size)
        self._targets.append(table["target_label"].to_numpy())
        self._size += len(table)


class PoolReader:
    """Random access to a pool, from any process of the worker's machine. It looks for new files
    when an index is beyond those it knows. It can be pickled.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._starts: list[int] = []
        self._columns: list[list[pa.Array]] = []
        self._size = 0

    def __reduce__(self) -> tuple:
        return (PoolReader, (self.folder,))

    def __getitem__(self, index: int) -> Mix:
        """Mix number `index`, in order of arrival. `IndexError` where the pool has no such mix, or
        not yet.
        """
        if index >= self._size:
            self._refresh()
        if not 0 <= index < self._size:
            raise IndexError(f"mix {index} of a pool of {self._size}")
        file = bisect.bisect_right(self._starts, index) - 1
        row = index - self._starts[file]
        return Mix(*(column[row].as_py() for column in self._columns[file]))

    def _refresh(self) -> None:
        for name in sorted(os.listdir(self.folder)):
            if not name.endswith(".arrow"):
                continue
            start = int(name.partition("-")[0])
            if start < self._size:
                continue
            file = pa.ipc.open_file(pa.memory_map(os.path.join(self.folder, name)))
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                self._starts.append(start)
                self._columns.append([batch.column(column) for column in COLUMNS])
                start += batch.num_rows
            self._size = start


def _file_name(start: int, rows: int) -> str:
    return f"{start:012d}-{rows}.arrow"


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
