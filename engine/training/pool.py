"""A train worker's growing pool of mixes: append-only Arrow IPC files on its own disk,
memory-mapped.
"""

from __future__ import annotations

import bisect
import os
import socket
import threading
import time
from typing import NamedTuple

import pyarrow as pa

from diffmix.errors import UserError, reason

COLUMNS = ["image", "source_label", "target_label", "strength"]
IDENTITY = "mix_id"
"""Kept beside `COLUMNS`, so that a pool's files say which mixes they hold."""
FLUSH_ROWS = 512
FLUSH_SECONDS = 1.0
FLUSH_SHARE = 1 / 256


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
        self._waiting: list[pa.Table] = []
        self._last_flush = time.monotonic()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Mixes that a reader can see."""
        return self._size

    def add(self, mixes: pa.Table) -> None:
        """Append mixes (columns of `store.SCHEMA`); the rejected ones are left out."""
        if "accepted" in mixes.column_names:
            mixes = mixes.filter(mixes["accepted"])
        with self._lock:
            if len(mixes):
                self._waiting.append(mixes.select([IDENTITY, *COLUMNS]))
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
