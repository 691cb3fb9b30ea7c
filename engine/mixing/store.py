"""The durable mix store: a folder of Parquet parts, one chunk each, and `plan.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffmix.errors import UserError
from diffmix.format_version import with_version, without_version
from diffmix.formats.named_mix import NamedMix
from diffmix.storage import Folder

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
"""Columns of a part. `image` is an encoded file, `score` the gate's (null without one)."""

_SCORER = b"scorer"
_READERS = 16
_PART = re.compile(r"part-(\d{8})\.parquet")


class Scores(NamedTuple):
    """What the gate knows of a part."""

    scorer: str | None
    """What gave the scores (`quality.Gate.scorer`); None where there are none."""
    score: np.ndarray
    """float32 [n] in [0, 1], NaN for a mix without one."""
    accepted: np.ndarray
    """bool [n]."""


class MixStore:
    """Parts of whole chunks, each written once and atomically. Cheap to make, picklable; any number
    may write at once.
    """

    def __init__(self, uri: str):
        self.folder = Folder(uri)

    def bind(self, identity: dict) -> None:
        """Tie the folder to a plan, or refuse it.

        `identity` says what the images depend on: nested dicts of JSON values (plan, concept,
        data). A new folder keeps it as `plan.json`; `UserError` where the folder already holds
        another, naming each setting that differs.
        """
        self.check(identity)
        if not self.identity:
            self.folder.create().write(
                "plan.json", json.dumps(with_version(identity), indent=2, sort_keys=True).encode()
            )

    def check(self, identity: dict) -> None:
        """Raise the `UserError` that `bind` would raise, and write nothing."""
        stored = self.identity
        differences = describe_differences(stored, identity) if stored else []
        if differences:
            raise UserError(
                f"The mix store {self.folder.uri} belongs to another plan: {'; '.join(differences)}. "
                "Go back to the stored settings or choose another --out."
            )

    @property
    def identity(self) -> dict:
        """What `bind` keeps: empty for a folder without a store. `UserError` where it is damaged,
        or gone and the parts are there.
        """
        if not self.folder.exists("plan.json"):
            if self.stored_chunks():
                raise UserError(
                    f"The mix store {self.folder.uri} has parts but no plan.json; restore that file or choose another --out."
                )
            return {}
        try:
            identity = json.loads(self.folder.read("plan.json"))
        except ValueError as error:
            raise UserError(
                f"{self.folder.uri}/plan.json is not valid JSON ({error}); restore it or choose another --out."
            ) from error
        if not isinstance(identity, dict) or not isinstance(identity.get("plan", {}), dict):
            raise UserError(
                f"{self.folder.uri}/plan.json is not a plan's identity; restore it or choose another --out."
            )
        return without_version(identity, f"{self.folder.uri}/plan.json")

    @property
    def class_names(self) -> list[str]:
        """What the labels mean. `UserError` for a folder that is no mix store."""
        names = self.identity.get("class_names")
        if not names:
            raise UserError(
                f"{self.folder.uri} is no mix store: it has no plan.json that names its classes."
            )
        return names

    def write(self, chunk: int, mixes: pa.Table, scorer: str | None = None) -> None:
        """Store a chunk's mixes (columns of `SCHEMA`), with the name of what gave their scores. The
        same mixes always give the same bytes.
        """
        sink = pa.BufferOutputStream()
        table = (
            mixes.select(SCHEMA.names)
            .cast(SCHEMA)
            .replace_schema_metadata({_SCORER: scorer} if scorer else None)
        )
        # Images are compressed already, and a fixed layout keeps the file's bytes a function of its
        # rows.
        pq.write_table(
            table, sink, compression="none", use_dictionary=False, write_statistics=False
        )
        self.folder.write(part_name(chunk), sink.getvalue())

    def stored_chunks(self) -> set[int]:
        """The numbers of the chunks whose parts are there (one listing of the folder)."""
        return {int(match[1]) for name in self.folder.names() if (match := _PART.fullmatch(name))}

    def holds(self, chunk: int) -> bool:
        """Whether the chunk's part is there."""
        return self.folder.exists(part_name(chunk))

    def read(self, chunk: int, columns: list[str] | None = None) -> pa.Table:
        """A chunk's mixes, in the plan's order; `UserError` where the part is damaged."""
        name = part_name(chunk)
        try:
            with self.folder.open(name) as file:
                return pq.read_table(file, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"The part {self.folder.uri}/{name} cannot be read ({error}); delete it and it is made again."
            ) from error

    def scores(self, chunks: Iterable[int]) -> dict[int, Scores]:
        """The chunks' scores and decisions, without their images."""
        chunks = list(chunks)
        with ThreadPoolExecutor(
            _READERS
        ) as threads:  # an object store answers after tens of milliseconds, a part at a time
            return dict(zip(chunks, threads.map(self._scores, chunks), strict=True))

    def _scores(self, chunk: int) -> Scores:
        table = self.read(chunk, ["score", "accepted"])
        scorer = (table.schema.metadata or {}).get(_SCORER)
        score = np.array(table["score"].to_pylist(), dtype=np.float32)  # None becomes NaN
        return Scores(
            scorer.decode() if scorer else None,
            score,
            np.array(table["accepted"].to_pylist(), dtype=bool),
        )

    def tables(
        self, columns: list[str] | None = None, chunks: set[int] | None = None
    ) -> Iterator[pa.Table]:
        """The stored chunks one after the other, by number; only those in `chunks` where it is
        given.
        """
        for chunk in sorted(self.stored_chunks() if chunks is None else chunks):
            yield self.read(chunk, columns)

    def named(self) -> Iterator[NamedMix]:
        """The stored mixes with their classes' names, by chunk; a chunk's images are read when one
        of them is asked for.
        """
        class_names = self.class_names
        for chunk in sorted(self.stored_chunks()):
            pictures = _Pictures(self, chunk)
            rows = self.read(chunk, [name for name in SCHEMA.names if name != "image"]).to_pylist()
            for place, row in enumerate(rows):
                source, target = (
                    class_names[row.pop("source_label")],
                    class_names[row.pop("target_label")],
                )
                yield NamedMix(
                    **row, source=source, target=target, load=partial(pictures.__getitem__, place)
                )

    def counts(self) -> tuple[int, int]:
        """How many mixes are stored and accepted, and how many were made but rejected by the gate."""
        accepted = [part.accepted for part in self.scores(self.stored_chunks()).values()]
        stored = sum(int(part.sum()) for part in accepted)
        return stored, sum(len(part) for part in accepted) - stored


class _Pictures:
    """A part's images, read once, when the first is asked for. Lives as long as somebody holds one
    of its mixes.
    """

    def __init__(self, store: MixStore, chunk: int):
        self._store, self._chunk = store, chunk

    @cached_property
    def _column(self) -> pa.ChunkedArray:
        return self._store.read(self._chunk, ["image"])["image"]

    def __getitem__(self, place: int) -> bytes:
        return self._column[place].as_py()


def part_name(chunk: int) -> str:
    return f"part-{chunk:08d}.parquet"


def describe_differences(stored: dict, wanted: dict, prefix: str = "") -> list[str]:
    """One phrase for each leaf in which two nested dicts differ."""
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
