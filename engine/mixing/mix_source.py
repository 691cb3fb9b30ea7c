"""Where a run's mixes come from: its own plan, or a store that `diffmix compose` has filled."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np

from diffmix.config import Config
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.plan import MixPlan
from diffmix.storage import Folder
from engine.mixing.compose import PART_MIXES, num_parts
from engine.mixing.filter import Decision, finish_filter, settle
from engine.mixing.store import MixStore
from engine.run_folder import bind_store, check_store, find_concept, plan_of, uses_concept


class MixSource(Protocol):
    """Answers what a run has to ask about its mixes. Chosen once, by `find_mix_source`.

    The configuration is an argument everywhere, because a run may settle some options on its way:
    `mix.batch auto`, `placement.auto`.
    """

    store: MixStore
    """The run folder's mix store. It may still be empty."""
    makes_mixes: bool
    """Whether the run makes mixes itself, which takes a concept and mixers."""

    def check(self, config: Config) -> None:
        """Raise `UserError` where the run folder's concept or mixes do not fit. Writes nothing."""
        ...

    def uses_concept(self, config: Config) -> bool:
        """Whether mixing takes a personalized generator."""
        ...

    def plan(self, config: Config) -> MixPlan | ComposedPlan:
        """What the store holds when it is complete."""
        ...

    def open(self, config: Config, concept: str | None) -> None:
        """Tie the store to this run, and finish a `diffmix filter` that was stopped. `concept` is
        the URI of the concept's folder, if there is one.
        """
        ...

    def settle(self, config: Config) -> None:
        """Decide what the gate could not decide while mixes were made."""
        ...

    def counts(self, config: Config) -> tuple[int, int]:
        """How many mixes are stored and accepted, and how many the gate rejected."""
        ...


def find_mix_source(out: Folder, real: RealSet) -> MixSource:
    """The source of the mixes in the run folder `out`, which trains on `real` images."""
    store = MixStore((out / "mixes").uri)
    kind = ComposedMixes if "composed" in store.identity else PlannedMixes
    return kind(out, real, store)


class PlannedMixes:
    """Mixes that the run makes itself, from a plan."""

    makes_mixes = True

    def __init__(self, out: Folder, real: RealSet, store: MixStore):
        self.store = store
        self._out, self._real = out, real

    def check(self, config: Config) -> None:
        concept = find_concept(config, self._out, self._real)
        # Without the concept or the batch the plan's identity is not known yet.
        if (concept or not uses_concept(config)) and config.mix.batch != "auto":
            check_store(config, self._out, self._real, concept)

    def uses_concept(self, config: Config) -> bool:
        return uses_concept(config)

    def plan(self, config: Config) -> MixPlan:
        return plan_of(config, self.store, self._real)

    def open(self, config: Config, concept: str | None) -> None:
        bind_store(config, self._out, self._real, concept)
        finish_filter(config, self.store)

    def settle(self, config: Config) -> None:
        settle(config, self.store, self._real)

    def counts(self, config: Config) -> tuple[int, int]:
        if "gate" in self.store.identity or Decision.of(self.store) is not None:
            return self.store.counts()
        # Without a gate all are accepted. A million parts need not be opened to know it.
        lengths, stored = self.plan(config).chunk_lengths, self.store.stored_numbers()
        return int(lengths[stored[stored < len(lengths)]].sum()), 0


class ComposedMixes:
    """A finished store that `diffmix compose` has put together. Nothing is added to it."""

    makes_mixes = False

    def __init__(self, out: Folder, real: RealSet, store: MixStore):
        self.store = store
        self._real = real

    def check(self, config: Config) -> None:
        uri, identity = self.store.folder.uri, self.store.identity
        if identity["class_names"] != self._real.class_names:
            raise UserError(
                f"The mixes in {uri} were composed for other classes than those of "
                f"{self._real.path}; compose them again with --data.train set, into another --out."
            )
        missing = set(range(num_parts(identity["planned"]))) - self.store.stored_chunks()
        if missing:
            raise UserError(
                f"The mixes in {uri} are incomplete ({len(missing)} parts are missing); run the "
                "same diffmix compose again."
            )

    def uses_concept(self, config: Config) -> bool:
        return False

    def plan(self, config: Config) -> ComposedPlan:
        return ComposedPlan(self.store)

    def open(self, config: Config, concept: str | None) -> None:
        finish_filter(config, self.store)

    def settle(self, config: Config) -> None:
        """Nothing: each mix has kept the decision of the store that it came from."""

    def counts(self, config: Config) -> tuple[int, int]:
        return self.store.counts()


class ComposedPlan:
    """Says of a composed store what a `MixPlan` says of the store that it plans. Reads the parts'
    columns, but no images.
    """

    strategy = None
    """No strategy made all of it."""
    from_noise = False
    """Even if some are from noise: what matters is that a source class has several targets."""
    sizes = ()
    """It is never extended."""

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

    def columns(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """As `MixPlan.columns`, but `source` only tells source images apart. Unknown ones count as
        one for each class.
        """
        return {name: values[ids] for name, values in self._columns.items()}

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        names = ["mix_id", "source_label", "target_label", "strength"]
        tables = list(self._store.tables([*names, "source_id"]))
        columns = {}
        for name in names:
            columns[name] = np.concatenate([table[name].to_numpy() for table in tables])
        ids = [table["source_id"].to_numpy(zero_copy_only=False) for table in tables]
        source_ids = np.concatenate(ids).astype(str)
        _, source = np.unique(source_ids, return_inverse=True)
        unknown = source_ids == ""
        return columns | {"source": np.where(unknown, -1 - columns["source_label"], source)}
