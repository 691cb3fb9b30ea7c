"""The mixes' side of `diffmix evaluate`: a sample of the store through `diffmix.faithfulness`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from diffmix.config import Config
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.faithfulness import StoredMix, faithfulness, load_features
from diffmix.gates.clip import load_clip
from diffmix.storage import Folder
from engine.mixing.store import MixStore


def measure_mixes(config: Config, real: RealSet, device: str) -> dict:
    """Faithfulness and diversity of `evaluate.mixes` of the run folder's accepted mixes, in this
    process.

    `UserError` where there are no mixes, and for a CLIP or feature extractor that cannot be had.
    """
    store = MixStore((Folder(config.out) / "mixes").uri)
    if not store.stored_chunks():
        raise UserError(
            f"{config.out} holds no mixes to measure; make some with diffmix synthesize or leave out --evaluate.mixes."
        )
    clip = load_clip(config.gate.clip, device) if config.gate.clip else None
    extractor = load_features(config.evaluate.features, clip, device)
    return faithfulness(
        sample_mixes(store, config.evaluate.mixes, config.run.seed), real, extractor, clip
    )


def sample_mixes(store: MixStore, count: int, seed: int) -> Iterator[list[StoredMix]]:
    """`count` accepted mixes, or all where there are fewer, part by part: whole parts drawn at
    random, so that few are read.
    """
    for chunk in np.random.default_rng(seed).permutation(sorted(store.stored_chunks())):
        columns = [field.name for field in fields(StoredMix)]
        table = store.read(int(chunk), [*columns, "accepted"])
        rows = table.filter(table["accepted"]).select(columns).slice(0, count).to_pylist()
        count -= len(rows)
        if rows:
            yield [StoredMix(**row) for row in rows]
        if not count:
            return
