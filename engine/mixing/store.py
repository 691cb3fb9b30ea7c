"""The durable mix store: a folder of Parquet parts, one chunk each, and `plan.json`."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int

from diffmix.errors import UserError
from diffmix.format_version import with_version, without_version
from diffmix.formats.named_mix import NamedMix
from diffmix.storage import Folder

T = TypeVar("T")

SCHEMA = pa.schema(
    [
        ("mix_id", pa.int64()),
        ("source_id", pa.string()),
        ("source_label", pa.int32()),
        ("target_label", pa.int32()),
        ("strength", pa.float32()),
        ("seed", pa.int64()),
        ("image", pa.binary()),
        ("score", pa.float32()),
        ("accepted", pa.bool_()),
    ]
)
"""Columns of a part. `image` is an encoded file; `score` is the gate's, null without a gate."""

_SCORER = b"scorer"
_READERS = 16
_PART = re.compile(r"part-(\d{8})\.parquet")


class Scores(NamedTuple):
    """What the gate knows of a part."""

    scorer: str | None
    """What gave the scores (`gates.Gate.scorer`); None where there are none."""
    score: Float32[np.ndarray, " mixes"]
    """In [0, 1]; NaN for a mix without a score."""
    accepted: Bool[np.ndarray, " mixes"]


class MixStore:
    """A folder of parts. Each part is a whole chunk, written once and atomically.

    A store is cheap to make and can be pickled. Any number of processes may write at once.
    """

    def __init__(self, uri: str):
        self.folder = Folder(uri)

    def bind(self, identity: dict) -> None:
        """Tie the folder to a plan: a new folder keeps `identity` as `plan.json`.

        `identity` says what the images depend on (plan, concept, data), in nested dicts of JSON
        values. `UserError` where the folder holds another identity; it names each setting that
        differs.
        """
        self.check(identity)
        if not self.identity:
            self.rewrite(identity)

    def rewrite(self, identity: dict) -> None:
        """Keep `identity` as `plan.json` in place of what is there."""
        text = json.dumps(with_version(identity), indent=2, sort_keys=True)
        self.folder.create().write("plan.json", text.encode())

    def check(self, identity: dict) -> None:
        """Raise the `UserError` that `bind` would raise, and write nothing."""
        stored = self.identity
        differences = describe_differences(stored, identity) if stored else []
        if differences:
            raise UserError(
                f"The mix store {self.folder.uri} belongs to another plan: "
                f"{'; '.join(differences)}. "
                "Go back to the stored settings or choose another --out."
            )

    @property
    def identity(self) -> dict:
        """What `bind` keeps; empty for a folder without a store. `UserError` where it is damaged,
        and where there are parts without it.
        """
        if not self.folder.exists("plan.json"):
            if self.stored_chunks():
                raise UserError(
                    f"The mix store {self.folder.uri} has parts but no plan.json; "
                    "restore that file or choose another --out."
                )
            return {}
        try:
            identity = json.loads(self.folder.read("plan.json"))
        except ValueError as error:
            raise UserError(
                f"{self.folder.uri}/plan.json is not valid JSON ({error}); "
                "restore it or choose another --out."
            ) from error
        if not isinstance(identity, dict) or not isinstance(identity.get("plan", {}), dict):
            raise UserError(
                f"{self.folder.uri}/plan.json is not a plan's identity; "
                "restore it or choose another --out."
            )
        return without_version(identity, f"{self.folder.uri}/plan.json")

    @property
    def class_names(self) -> list[str]:
        """The classes' names, by label. `UserError` for a folder that is no mix store."""
        names = self.identity.get("class_names")
        if not names:
            raise UserError(
                f"{self.folder.uri} is no mix store: it has no plan.json that names its classes."
            )
        return names

    def write(self, chunk: int, mixes: pa.Table, scorer: str | None = None) -> None:
        """Store a chunk's mixes (columns of `SCHEMA`), and the name of what gave their scores. The
        same mixes always give the same bytes.
        """
        metadata = {_SCORER: scorer} if scorer else None
        table = mixes.select(SCHEMA.names).cast(SCHEMA).replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        # Images are compressed already. With a fixed layout the file's bytes depend on the rows
        # alone.
        pq.write_table(
            table, sink, compression="none", use_dictionary=False, write_statistics=False
        )
        self.folder.write(part_name(chunk), sink.getvalue())

    def stored_chunks(self) -> set[int]:
        """The numbers of the stored chunks (one listing of the folder)."""
        return set(self.stored_numbers().tolist())

    def stored_numbers(self) -> Int[np.ndarray, " parts"]:
        """The same as an array, rising: a million numbers take 8 MB and not 60."""
        matches = (_PART.fullmatch(name) for name in self._names())
        numbers = (int(match[1]) for match in matches if match)
        return np.sort(np.fromiter(numbers, np.int64))

    def _names(self) -> Iterable[str]:
        """The folder's names in any order. On a disk without a look at each file, which would take
        ten times as long.
        """
        if self.folder.is_local:
            with contextlib.suppress(OSError):
                return os.listdir(self.folder.path)
        return self.folder.names()

    def holds(self, chunk: int) -> bool:
        """Whether the chunk is stored."""
        return self.folder.exists(part_name(chunk))

    def read(self, chunk: int, columns: list[str] | None = None) -> pa.Table:
        """A chunk's mixes, in the plan's order. `UserError` where the part is damaged."""
        name = part_name(chunk)
        try:
            with self.folder.open(name) as file:
                return pq.read_table(file, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"The part {self.folder.uri}/{name} cannot be read ({error}); "
                "delete it and it is made again."
            ) from error

    def scores(self, chunks: Iterable[int]) -> dict[int, Scores]:
        """The chunks' scores and decisions, read without their images."""
        chunks = list(chunks)
        return dict(zip(chunks, read_ahead(self._scores, chunks), strict=True))

    def _scores(self, chunk: int) -> Scores:
        table = self.read(chunk, ["score", "accepted"])
        scorer = (table.schema.metadata or {}).get(_SCORER)
        score = np.array(table["score"].to_pylist(), dtype=np.float32)  # None becomes NaN
        accepted = np.array(table["accepted"].to_pylist(), dtype=bool)
        return Scores(scorer.decode() if scorer else None, score, accepted)

    def tables(
        self, columns: list[str] | None = None, chunks: set[int] | None = None
    ) -> Iterator[pa.Table]:
        """The stored chunks' mixes, one table for each, by chunk number. With `chunks`, only
        those. Threads read a few parts ahead.
        """
        numbers = sorted(self.stored_numbers().tolist() if chunks is None else chunks)
        yield from read_ahead(partial(self.read, columns=columns), numbers)

    def named(self) -> Iterator[NamedMix]:
        """The stored mixes with the names of their classes, by chunk number. A chunk's images are
        read when the first of them is asked for.
        """
        class_names = self.class_names
        for chunk in sorted(self.stored_chunks()):
            images = _Images(self, chunk)
            rows = self.read(chunk, [name for name in SCHEMA.names if name != "image"]).to_pylist()
            for number, row in enumerate(rows):
                source = class_names[row.pop("source_label")]
                target = class_names[row.pop("target_label")]
                load = partial(images.__getitem__, number)
                yield NamedMix(**row, source=source, target=target, load=load)

    def counts(self) -> tuple[int, int]:
        """How many of the mixes are accepted, and how many the gate rejected."""
        kept = total = 0
        for part in read_ahead(self._scores, self.stored_numbers().tolist()):
            kept, total = kept + int(part.accepted.sum()), total + len(part.accepted)
        return kept, total - kept


class _Images:
    """A part's images, read once when the first is asked for. It lives as long as one of its mixes
    does.
    """

    def __init__(self, store: MixStore, chunk: int):
        self._store, self._chunk = store, chunk

    @cached_property
    def _column(self) -> pa.ChunkedArray:
        return self._store.read(self._chunk, ["image"])["image"]

    def __getitem__(self, number: int) -> bytes:
        return self._column[number].as_py()


def read_ahead(read: Callable[[int], T], chunks: Iterable[int]) -> Iterator[T]:
    """`read` of each chunk, in order. Threads read the next few meanwhile, because an object store
    takes tens of milliseconds to answer, for each part.
    """
    left = iter(chunks)
    with ThreadPoolExecutor(_READERS) as threads:
        ahead = deque(threads.submit(read, chunk) for chunk in islice(left, 2 * _READERS))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(threads.submit(read, chunk) for chunk in islice(left, 1))
                yield result
        finally:
            for future in ahead:
                future.cancel()


def part_name(chunk: int) -> str:
    """The file of a chunk."""
    return f"part-{chunk:08d}.parquet"


def describe_differences(stored: dict, wanted: dict, prefix: str = "") -> list[str]:
    """A phrase for each leaf in which nested dicts differ: `plan.seed is 1 there and 2 now`."""
    phrases = []
    for key in sorted(stored.keys() | wanted.keys()):
        old, new = stored.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            phrases += describe_differences(old, new, f"{prefix}{key}.")
        elif old != new:
            phrases.append(f"{prefix}{key} is {_short(old)} there and {_short(new)} now")
    return phrases


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
