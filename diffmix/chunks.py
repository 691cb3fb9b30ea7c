"""How a plan is cut into chunks, kept in a few arrays: a plan of ten million mixes takes 60 MB at
most, and none where all its mixes run the same number of steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

StepsOf = Callable[[Int[np.ndarray, " n"]], Int[np.ndarray, " n"]]
"""The denoising steps of some mixes."""

BLOCK = 2**18
"""Mixes that are looked at in one go: bounds the memory of what is drawn for each."""


class Chunks:
    """The mix ids of each chunk. A chunk's mixes run the same number of steps."""

    def __init__(
        self,
        starts: Int[np.ndarray, " chunks"],
        stops: Int[np.ndarray, " chunks"],
        ids: Int[np.ndarray, " mixes"] | None,
    ):
        """Called by `cut`. Chunk i has the ids `ids[starts[i]:stops[i]]`; without `ids` all from
        `starts[i]` to before `stops[i]`.
        """
        self._starts, self._stops, self._ids = starts, stops, ids

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Int[np.ndarray, " n"]:
        start, stop = int(self._starts[index]), int(self._stops[index])
        if self._ids is None:
            return np.arange(start, stop, dtype=np.int64)
        return self._ids[start:stop].astype(np.int64)

    @property
    def lengths(self) -> Int[np.ndarray, " chunks"]:
        """The number of mixes in each chunk."""
        return self._stops - self._starts

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = [self._starts, self._stops, *([] if self._ids is None else [self._ids])]
        return sum(array.nbytes for array in arrays)


def cut(planned: int, batch: int, steps_of: StepsOf | None, sizes: Sequence[int] = ()) -> Chunks:
    """Cut mixes 0 to `planned` - 1 into chunks of at most `batch` with equal steps, ordered by
    first id, so that strengths arrive interleaved and not one after the other.

    `steps_of` None: all run the same number. `sizes` are the plan's earlier sizes, rising: each
    part that was added is cut by itself, so the chunks before it keep their numbers and mixes.
    """
    bounds = [0, *sizes, planned]
    if steps_of is None:
        spans = itertools.pairwise(bounds)
        starts = np.concatenate([np.arange(a, b, batch, dtype=np.int64) for a, b in spans])
        return Chunks(starts, np.append(starts[1:], planned)[: len(starts)], None)
    kind = np.int32 if planned < 2**31 else np.int64
    steps = np.empty(planned, dtype=np.int16)
    for first in range(0, planned, BLOCK):
        block = np.arange(first, min(first + BLOCK, planned), dtype=np.int64)
        steps[first : first + BLOCK] = steps_of(block)
    ids = np.empty(planned, dtype=kind)
    begins: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    for first, stop in itertools.pairwise(bounds):
        begin, end = _cut_part(ids, steps, first, stop, batch)
        begins.append(begin)
        ends.append(end)
    return Chunks(np.concatenate(begins), np.concatenate(ends), ids)


def _cut_part(
    ids: np.ndarray, steps: np.ndarray, first: int, stop: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the chunks of mixes `first` to `stop` - 1 begin and end in `ids`, which is filled."""
    place, begins, ends = first, [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    part = steps[first:stop]
    for count in np.unique(part):
        same = np.flatnonzero(part == count)
        last = place + len(same)
        np.add(same, first, out=ids[place:last], casting="same_kind")
        begin = np.arange(place, last, batch, dtype=np.int64)
        begins.append(begin)
        ends.append(np.minimum(begin + batch, last))
        place = last
    begin, end = np.concatenate(begins), np.concatenate(ends)
    order = np.argsort(ids[begin])
    return begin[order], end[order]
