"""A mix store that `diffmix compose` put together: finished, from no plan of this run, and trained
on as it is.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from diffmix.config import Config
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.plan import MixPlan, make_plan
from diffmix.storage import Folder
from engine.mixing.store import MixStore

PART_MIXES = 64
"""Mixes in a part."""


def is_composed(store: MixStore) -> bool:
    return "composed" in store.identity


def find_composed(out: Folder, real: RealSet) -> MixStore | None:
    """The run folder's mix store where it is a composed one, else None.

    `UserError` where its classes are not those of the training images, in their order, or where
    parts are missing.
    """
    store = MixStore((out / "mixes").uri)
    identity = store.identity
    if "composed" not in identity:
        return None
    if identity["class_names"] != real.class_names:
        raise UserError(
            f"The mixes in {store.folder.uri} were composed for other classes than those of {real.path}; "
            "compose them again with --data.train set, into another --out."
        )
    missing = set(range(num_parts(identity["planned"]))) - store.stored_chunks()
    if missing:
        raise UserError(
            f"The mixes in {store.folder.uri} are incomplete ({len(missing)} parts are missing); run the same diffmix compose again."
        )
    return store


def num_parts(mixes: int) -> int:
    return -(-mixes // PART_MIXES)


def plan_of(config: Config, real: RealSet, store: MixStore | None) -> MixPlan | ComposedPlan:
    """What a store holds when it is complete: its own content if it was composed, else the
    configuration's plan.
    """
    return ComposedPlan(store) if store and is_composed(store) else make_plan(config, real)


class ComposedPlan:
    """Says of a composed store what a `MixPlan` says of the store that it plans; reads the parts'
    columns, but no images.
    """

    def __init__(self, store: MixStore):
        self._store = store
        self._size = int(store.identity["planned"])

    def __len__(self) -> int:
        return self._size

    @property
    def num_chunks(self) -> int:
        return num_parts(self._size)

    def chunk_ids(self, index: int) -> np.ndarray:
        """int64 mix ids of a part."""
        return np.arange(index * PART_MIXES, min((index + 1) * PART_MIXES, self._size))

    kind = "mix"
    """Even where some are from noise: what matters is that a source class has several targets."""

    def columns(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """As `MixPlan.columns`, but `source` only tells source images apart; those that are not
        known count as one for each class.
        """
        return {name: values[ids] for name, values in self._columns.items()}

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        names = ["mix_id", "source_label", "target_label", "strength"]
        tables = list(self._store.tables([*names, "source_id"]))
        columns = {
            name: np.concatenate([table[name].to_numpy() for table in tables]) for name in names
        }
        ids = np.concatenate(
            [table["source_id"].to_numpy(zero_copy_only=False) for table in tables]
        ).astype(str)
        _, source = np.unique(ids, return_inverse=True)
        return columns | {"source": np.where(ids == "", -1 - columns["source_label"], source)}
