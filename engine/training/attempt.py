"""One attempt at training, from the start of a worker group to its end: which mixes come from the
store and which from the stream, decided once for all of its workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import ray.data
import ray.train
from jaxtyping import Int

from engine.placement.ray_internals import resolved_options

Chunks = Sequence[int] | Int[np.ndarray, " chunks"]
"""Numbers of chunks."""


class Attempt(NamedTuple):
    """What stands in for a data set of Ray Train's: each worker group's start asks for a new one.

    The list of stored chunks is made once. Workers that looked for themselves would see different
    lists, because mixers of the attempt before may still store what they had begun.
    """

    stored: Int[np.ndarray, " stored"]
    """Numbers of the chunks that are shared out from the store, rising."""
    stream: ray.data.Dataset
    """Makes all other chunks of the plan."""


class AsTheyCome(ray.train.DataConfig):
    """Hands each block at once to the worker that has had the fewest rows, and gives each worker
    its share of the stored chunks, as the attribute `stored` of its shard.

    Ray's own way gives workers equal shares and, with locality, prefers their nodes: it holds back
    as many rows as could still make up for the last block, and drops what cannot be shared equally.
    Here each worker's pool may differ in size.
    """

    def configure(
        self, datasets: dict, world_size: int, *_: object, **__: object
    ) -> list[dict[str, ray.data.DataIterator]]:
        shards: list[dict[str, ray.data.DataIterator]] = [{} for _ in range(world_size)]
        for name, attempt in datasets.items():
            data = attempt.stream.copy(attempt.stream)
            data.context.execution_options = resolved_options(self, name)
            parts = data.streaming_split(world_size, equal=False)
            for rank, (shard, part) in enumerate(zip(shards, parts, strict=True)):
                part.stored = share(attempt.stored, rank, world_size)
                shard[name] = part
        return shards


def share(chunks: Chunks, rank: int, world_size: int) -> Chunks:
    """The chunks that go to one rank, in order. Each goes to exactly one."""
    return chunks[rank::world_size]
