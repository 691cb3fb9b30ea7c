"""The durable mix store: a folder of Parquet parts, one chunk each, and `plan.json`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int

from diffmix.errors import UserError, reason
from diffmix.files.read_ahead import read_ahead
from diffmix.format_version import with_version, without_version
from diffmix.formats.named_mix import NamedMix
from diffmix.storage import Folder
from engine.mixing.store_views import StoreViews

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

REPAIR = "delete it, or give the same command with --run.repair True, and it is made again"
"""What to do about a bad part."""
_SCORER, _MADE_WITH = b"scorer", b"made_with"
_PART = re.compile(r"part-(\d{8})\.parquet")


class Scores(NamedTuple):
    """What the gate knows of a part."""

    scorer: str | None
    """What gave the scores (`gates.Gate.scorer`); None where there are none."""
    score: Float32[np.ndarray, " mixes"]
    """In [0, 1]; NaN for a mix without a score."""
    accepted: Bool[np.ndarray, " mixes"]


class MixStore(StoreViews):
    """A folder of parts. Each part is a whole chunk, written once and atomically.

    A store is cheap to make and can be pickled. Any number of processes may write at once.
    """

    schema = SCHEMA

    def __init__(self, uri: str):
        self.folder = Folder(uri)
        self._checksums = self.folder / "checksums"

    def bind(self, identity: dict) -> None:
        """Tie the folder to a plan: a new folder keeps `identity` as `plan.json`.

        `identity` says what the images depend on (plan, concept, data), in nested dicts of JSON
        values. `UserError` where the folder holds another identity; it names each setting that
        differs.
        """
        self.check(identity)
        if not self.identity:
            self._write_plan(identity)

    def rewrite(self, identity: dict) -> None:
        """Keep `identity` in place of the one that is there."""
        made_with = {"made_with": self.made_with} if self.made_with else {}
        self._write_plan({**identity, **made_with})

    def _write_plan(self, values: dict) -> None:
        text = json.dumps(with_version(values), indent=2, sort_keys=True)
        self.folder.create().write("plan.json", text.encode())

    @property
    def made_with(self) -> dict:
        """How the first run on this store made its mixes (`engine.mixing.made_with`); empty where
        that was not kept. It is no part of the identity.
        """
        return self._plan().get("made_with", {})

    def keep_made_with(self, made_with: dict) -> None:
        """Write that down in a store that is bound and does not have it."""
        self._write_plan({**self._plan(), "made_with": made_with})

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
        return {key: value for key, value in self._plan().items() if key != "made_with"}

    def _plan(self) -> dict:
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

    def write(
        self,
        chunk: int,
        mixes: pa.Table,
        scorer: str | None = None,
        made_with: dict | None = None,
    ) -> None:
        """Store a chunk's mixes (columns of `SCHEMA`), and the name of what gave their scores. The
        same mixes always give the same bytes.

        `made_with` is for a part that was made otherwise than the store says. A part that was read
        and is written again keeps it.
        """
        metadata: dict[bytes, str | bytes] = {_SCORER: scorer} if scorer else {}
        kept = (mixes.schema.metadata or {}).get(_MADE_WITH)
        if made_with:
            metadata[_MADE_WITH] = json.dumps(made_with, sort_keys=True)
        elif kept:
            metadata[_MADE_WITH] = kept
        table = mixes.select(SCHEMA.names).cast(SCHEMA).replace_schema_metadata(metadata or None)
        sink = pa.BufferOutputStream()
        # Images are compressed already. With a fixed layout the file's bytes depend on the rows
        # alone.
        pq.write_table(
            table, sink, compression="none", use_dictionary=False, write_statistics=False
        )
        # First the checksum: a part that is there has one. It is of what never changes, so that a
        # filter that is killed between the two leaves no part that looks damaged.
        self._checksums.write(_checksum_name(chunk), checksum(table).encode())
        self.folder.write(part_name(chunk), sink.getvalue())

    def put_away(self, chunk: int) -> None:
        """Move a part into the folder `damaged`, so that its chunk counts as missing."""
        name = part_name(chunk)
        (self.folder / "damaged").write(f"{name}.damaged", self.folder.read(name))
        self.folder.delete(name)

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
        """A chunk's mixes, in the plan's order. `UserError` where the part is damaged; whether the
        images are those that were stored is known where all columns are read.
        """
        name = part_name(chunk)
        try:
            with self.folder.open(name) as file:
                table = pq.read_table(file, columns=columns)
            if columns is None:
                self._verify(chunk, table)
            return table
        except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"The part {self.folder.uri}/{name} cannot be read ({reason(error)}); {REPAIR}."
            ) from error

    def _verify(self, chunk: int, table: pa.Table) -> None:
        """Raise `UserError` where the part's content is not what was stored."""
        name = part_name(chunk)
        if set(SCHEMA.names) - set(table.column_names):
            raise UserError(
                f"The part {self.folder.uri}/{name} lacks columns of a mix store; {REPAIR}."
            )
        try:
            stored = self._checksums.read(_checksum_name(chunk)).decode(errors="replace")
        except FileNotFoundError:
            return  # written before parts had checksums
        if stored != checksum(table):
            raise UserError(
                f"The part {self.folder.uri}/{name} is damaged (its checksum is not the stored "
                f"one); {REPAIR}."
            )

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

    def part_made_with(self, chunk: int) -> dict:
        """How a chunk was made; what the store says, unless the part says something else."""
        metadata = self.read(chunk, ["mix_id"]).schema.metadata or {}
        return json.loads(metadata[_MADE_WITH]) if _MADE_WITH in metadata else self.made_with

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


def part_name(chunk: int) -> str:
    """The file of a chunk."""
    return f"part-{chunk:08d}.parquet"


def _checksum_name(chunk: int) -> str:
    """Not a name that somebody's pattern for Parquet files would match."""
    return f"{chunk:08d}.sha256"


def checksum(mixes: pa.Table) -> str:
    """SHA-256 of what never changes of a part's mixes: all but the gate's score and decision."""
    digest = hashlib.sha256()
    for name in SCHEMA.names:
        if name in ("score", "accepted"):
            continue
        column = mixes[name]
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
            continue
        for value in column:
            data = value.as_buffer() or b""
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.hexdigest()


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
