"""The side-car of a `RealSet` in a bucket: everything but the images, and where each image lies in
the large file. With it a mixer reads the class names alone, and a reader the images that it needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Int32, Int64

from diffmix import storage
from diffmix.errors import UserError, reason

_SUFFIX = ".index"
_THREADS = 16


class Classes(NamedTuple):
    """What a set's images are pictures of."""

    class_names: list[str]
    superclass: str


class SetIndex:
    """A set in a bucket without a copy of it here: its columns are in memory, its images are read
    by ranges. Nothing changes after `open`, so threads may share it.
    """

    def __init__(self, path: str, table: pa.Table):
        """Called by `open`."""
        self.path = path
        metadata = table.schema.metadata
        self.fingerprint: str = metadata[b"fingerprint"].decode()
        self.class_names: list[str] = json.loads(metadata[b"class_names"])
        self.superclass: str = json.loads(metadata[b"superclass"])
        self._table = table

    @classmethod
    def open(cls, path: str) -> SetIndex | None:
        """The index of the set at a URI; None where it has none, as sets of older versions."""
        try:
            with pa.memory_map(storage.local_copy(index_path(path))) as file:
                return cls(path, pa.ipc.open_file(file).read_all())
        except FileNotFoundError:
            return None

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def labels(self) -> Int32[np.ndarray, " images"]:
        """Indices into `class_names`."""
        return self._table["label"].to_numpy()

    @property
    def id_column(self) -> pa.ChunkedArray:
        """N unique ids, as an Arrow column of strings."""
        return self._table["image_id"]

    @cached_property
    def _starts(self) -> Int64[np.ndarray, " images"]:
        return self._table["start"].to_numpy()

    @cached_property
    def sizes(self) -> Int32[np.ndarray, " images"]:
        """Bytes of each image file."""
        return self._table["size"].to_numpy()

    def images(self, rows: Iterable[int]) -> list[bytes]:
        """The files of some images, read in threads. Raises `UserError` where the set is gone."""
        remote, path = storage.filesystem(self.path)
        try:
            # One file for all: pyarrow's are safe to `read_at` from several threads.
            with remote.open_input_file(path) as file, ThreadPoolExecutor(_THREADS) as threads:

                def read(row: int) -> bytes:
                    return file.read_at(int(self.sizes[row]), int(self._starts[row]))

                return list(threads.map(read, rows))
        except OSError as error:
            raise UserError(
                f"The prepared images {self.path} cannot be read ({reason(error)}); prepare the "
                "data again with another --out."
            ) from error


def index_path(path: str) -> str:
    """Where the index of the set at `path` lies."""
    return path + _SUFFIX


def read_classes(path: str) -> Classes | None:
    """The class names of the set at a URI, without its index's columns. None without an index."""
    remote, place = storage.filesystem(index_path(path))
    try:
        with remote.open_input_file(place) as file:
            metadata = pa.ipc.open_file(file).schema.metadata
    except FileNotFoundError:
        return None
    return Classes(json.loads(metadata[b"class_names"]), json.loads(metadata[b"superclass"]))


def write_index(local: str, path: str) -> None:
    """Write the index of the set that lies in the file `local` and belongs at the URI `path`."""
    file = pa.memory_map(local)
    whole = file.read_buffer()  # the map itself: batches point into it
    reader = pa.ipc.open_file(whole)
    columns: dict[str, list[pa.Array]] = {"image_id": [], "label": [], "start": [], "size": []}
    for number in range(reader.num_record_batches - 1):  # the last one carries the fingerprint
        batch = reader.get_batch(number)
        images = batch.column("image")
        _, offsets, content = images.buffers()
        first = content.address - whole.address if content is not None else 0
        begins: Int[np.ndarray, " n"] = np.frombuffer(offsets, np.int32, len(images) + 1)
        columns["start"].append(pa.array(begins[:-1].astype(np.int64) + first))
        columns["size"].append(pc.binary_length(images))
        columns["image_id"].append(batch.column("image_id"))
        columns["label"].append(batch.column("label"))
    last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
    metadata = {**reader.schema.metadata, b"fingerprint": last.custom_metadata[b"fingerprint"]}
    table = pa.table({name: pa.chunked_array(parts) for name, parts in columns.items()})
    table = table.replace_schema_metadata(metadata)
    with (
        storage.writing(index_path(path), keep=True) as temporary,
        pa.OSFile(temporary, "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
