"""`RealSet`: the validated real images of one split, in one memory-mapped file."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32

from diffmix import storage
from diffmix.errors import UserError
from diffmix.files.set_index import Classes, SetIndex, read_classes, write_index

_BATCH_ROWS = 256
# Bounds the memory of writing, and stays far below the 2 GiB that a binary column can hold.
_BATCH_BYTES = 64 * 2**20
_COLUMNS = [
    ("image_id", pa.string()),
    ("image", pa.binary()),
    ("label", pa.int32()),
    ("group", pa.string()),
]


class Example(NamedTuple):
    """One real image."""

    image_id: str
    """Unique in its set and stable across runs."""
    image: bytes
    """The image file's own bytes."""
    label: int
    """Index into the set's class names."""
    group: str | None = None
    """A group for which accuracy is reported, such as the background."""


class RealSet:
    """N validated images in one uncompressed Arrow IPC file, read through a memory map.

    Columns: `image_id` string, `image` binary, `label` int32, `group` string or null. The schema's
    metadata has `class_names` and `superclass` as JSON. Nothing changes after `open`, so threads
    may share a set. A pickled set opens the same path where it is unpickled.
    """

    def __init__(self, path: str, batches: list[pa.RecordBatch], fingerprint: str):
        """Called by `open` and `write`."""
        self.path = path
        self.fingerprint: str = fingerprint
        """SHA-256 over ids, labels, image bytes, class names and superclass, in hex. Equal sets
        have equal fingerprints, wherever they lie.
        """
        metadata = batches[0].schema.metadata
        self.class_names: list[str] = json.loads(metadata[b"class_names"])
        self.superclass: str = json.loads(metadata[b"superclass"])
        self._batches = batches
        self._images = [batch.column("image") for batch in batches]
        self._stops = np.cumsum([batch.num_rows for batch in batches])

    @classmethod
    def open(cls, path: str) -> "RealSet":
        """The set that `write` made at a local path or URI. A remote file is copied to this node
        once; `open_rows` and `classes_of` do without.

        Raises `UserError` if the file is missing or is not such a set.
        """
        local = storage.local_path(path)
        try:
            reader = pa.ipc.open_file(pa.memory_map(storage.local_copy(path)))
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            metadata = reader.get_batch_with_custom_metadata(len(batches) - 1).custom_metadata
            return cls(local or path, batches, metadata[b"fingerprint"].decode())
        except FileNotFoundError as error:
            raise UserError(
                f"The prepared images {path} do not exist; prepare the data again with another "
                "--out."
            ) from error
        except (pa.ArrowInvalid, IndexError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a file of prepared images; prepare the data again with another "
                "--out."
            ) from error

    @classmethod
    def write(
        cls, path: str, examples: Iterable[Example], class_names: list[str], superclass: str
    ) -> "RealSet":
        """Write the examples, in order, to a local path or URI and open the result. The file is
        complete or not there. A URI also gets a side-car (`diffmix.files.set_index`).

        `examples` may be larger than memory. Raises `ValueError` for an id that occurs twice and
        for a label without a class name.
        """
        metadata = {
            "class_names": json.dumps(class_names, ensure_ascii=False),
            "superclass": json.dumps(superclass, ensure_ascii=False),
        }
        schema = pa.schema(_COLUMNS, metadata=metadata)
        digest = hashlib.sha256(json.dumps([class_names, superclass]).encode())
        seen: set[str] = set()

        def checked() -> Iterator[Example]:
            for example in examples:
                if example.image_id in seen:
                    raise ValueError(f"image id {example.image_id!r} occurs twice")
                if not 0 <= example.label < len(class_names):
                    raise ValueError(
                        f"image {example.image_id!r} has label {example.label}, but there are "
                        f"{len(class_names)} classes"
                    )
                seen.add(example.image_id)
                digest.update(
                    json.dumps(
                        [
                            example.image_id,
                            int(example.label),
                            hashlib.sha256(example.image).hexdigest(),
                        ]
                    ).encode()
                )
                yield example

        with (
            storage.writing(path, keep=True) as temporary,
            pa.OSFile(temporary, "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            for rows in _batched(checked()):
                columns = zip(*rows, strict=True)
                arrays = [
                    pa.array(column, type)
                    for column, (_, type) in zip(columns, _COLUMNS, strict=True)
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            # The fingerprint is known only after the schema is written, so an empty last batch
            # carries it.
            last = pa.RecordBatch.from_arrays(
                [pa.array([], type) for _, type in _COLUMNS], schema=schema
            )
            writer.write_batch(last, custom_metadata={"fingerprint": digest.hexdigest()})
        if storage.local_path(path) is None:
            write_index(storage.local_copy(path), path)
        return cls.open(path)

    def __len__(self) -> int:
        return int(self._stops[-1])

    def __reduce__(self) -> tuple:
        return RealSet.open, (self.path,)

    @cached_property
    def labels(self) -> Int32[np.ndarray, " images"]:
        """Indices into `class_names`."""
        return np.concatenate([batch.column("label").to_numpy() for batch in self._batches])

    @cached_property
    def image_ids(self) -> list[str]:
        """N unique ids."""
        return [name for batch in self._batches for name in batch.column("image_id").to_pylist()]

    @cached_property
    def id_column(self) -> pa.ChunkedArray:
        """The same as an Arrow column, without a copy."""
        return pa.chunked_array([batch.column("image_id") for batch in self._batches])

    @cached_property
    def groups(self) -> list[str | None]:
        """N groups. None: the image has no group."""
        return [group for batch in self._batches for group in batch.column("group").to_pylist()]

    @property
    def bytes_per_image(self) -> float:
        """The mean size of an image's file and its row, in bytes."""
        return sum(batch.nbytes for batch in self._batches) / max(1, len(self))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.image_ids)}

    def image_bytes(self, index: int) -> bytes:
        """The image file's own bytes, for `images.decode`. Raises IndexError outside 0..N-1."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        batch = int(np.searchsorted(self._stops, index, side="right"))
        start = int(self._stops[batch - 1]) if batch else 0
        return self._images[batch][index - start].as_py()

    def images(self, rows: Iterable[int]) -> list[bytes]:
        """The files of some images."""
        return [self.image_bytes(row) for row in rows]

    @cached_property
    def sizes(self) -> Int32[np.ndarray, " images"]:
        """Bytes of each image file."""
        return np.concatenate([pc.binary_length(images).to_numpy() for images in self._images])

    def index_of(self, image_id: str) -> int:
        """The index of an image. Raises `KeyError` for an id that is not in the set."""
        return self._index[image_id]


def open_rows(path: str) -> RealSet | SetIndex:
    """The set at a local path or URI for one that needs some of its images: without a copy of a
    remote set, where that has its side-car. Raises as `RealSet.open`.
    """
    index = SetIndex.open(path) if storage.local_path(path) is None else None
    return index or RealSet.open(path)


def classes_of(path: str) -> Classes:
    """The class names and the superclass of the set at a local path or URI, read without its images
    where it has its side-car. Raises as `RealSet.open`.
    """
    found = read_classes(path) if storage.local_path(path) is None else None
    if found is not None:
        return found
    real = RealSet.open(path)
    return Classes(real.class_names, real.superclass)


def _batched(examples: Iterator[Example]) -> Iterator[list[Example]]:
    rows: list[Example] = []
    size = 0
    for example in examples:
        rows.append(example)
        size += len(example.image)
        if len(rows) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows
