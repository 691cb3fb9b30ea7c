"""Whether a part holds what was stored in it, and what its plan says; and making bad ones again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from diffmix.config import Config
from diffmix.datasets.real import open_rows
from diffmix.errors import UserError
from diffmix.plan import MixPlan, make_plan
from engine.mixer.tries import SetAside
from engine.mixing.store import REPAIR, MixStore, part_name

log = logging.getLogger(__name__)

_READERS = 16


class PartCheck:
    """Reads parts that have to be those of a plan. Each train worker has its own."""

    def __init__(self, store: MixStore, plan: MixPlan | None):
        """`plan` None: a composed store, of which no plan says what a part has to hold."""
        self.store, self.plan = store, plan

    def read(self, chunk: int) -> pa.Table:
        """A chunk's mixes. `UserError` where the part is damaged or of another plan."""
        table = self.store.read(chunk)
        if self.plan is not None:
            self._compare(chunk, table, self.plan)
        return table

    def _compare(self, chunk: int, table: pa.Table, plan: MixPlan) -> None:
        uri = f"{self.store.folder.uri}/{part_name(chunk)}"
        if chunk >= plan.num_chunks:
            raise UserError(
                f"The part {uri} belongs to another plan: this one has {plan.num_chunks} parts, "
                "counted from 0; delete it, or give the same command with --run.repair True."
            )
        if not _is_of(table, plan, chunk):
            raise UserError(
                f"The part {uri} belongs to another plan: its mixes are not those that this one "
                f"has as its part {chunk}; {REPAIR}."
            )


def _is_of(table: pa.Table, plan: MixPlan, chunk: int) -> bool:
    """Whether a part's mixes are those of the plan's chunk. Compared column by column: one part of
    a million mixes is read after the other, and a `MixSpec` for each mix would double the time.
    """
    wanted = plan.columns(plan.chunk_ids(chunk))
    source = wanted.pop("source")
    return all(
        np.array_equal(table[name].to_numpy(), column) for name, column in wanted.items()
    ) and table["source_id"].to_pylist() == plan.source_ids(source)


def check_of(config: Config, train_path: str, store: str) -> Callable[[int], pa.Table]:
    """What a train worker reads the stored chunks with."""
    mixes = MixStore(store)
    identity = mixes.identity
    planned = "plan" in identity  # neither composed nor a stand-in's
    sizes = identity["plan"].get("sizes", ()) if planned else ()
    plan = make_plan(config, open_rows(train_path), sizes=sizes) if planned else None
    return PartCheck(mixes, plan).read


def repair(store: MixStore, plan: MixPlan | None) -> list[int]:
    """Check every part of a store, and move the bad ones into its folder `damaged`, so that they
    are made again with what was set aside. Gives the bad parts' chunks.
    """
    SetAside(store.folder).clear()
    check = PartCheck(store, plan)
    bad = []

    def problem(chunk: int) -> str | None:
        try:
            check.read(chunk)
            return None
        except UserError as error:
            return str(error)

    chunks = sorted(store.stored_chunks())
    with ThreadPoolExecutor(_READERS) as threads:
        for chunk, found in zip(chunks, threads.map(problem, chunks), strict=True):
            if found:
                log.warning("%s", found.partition(";")[0] + "; it was moved to `damaged`.")
                store.put_away(chunk)
                bad.append(chunk)
    log.warning("%d of %d stored parts were damaged.", len(bad), len(chunks))
    return bad
