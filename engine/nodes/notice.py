"""The notice that a train worker's node is going away, and the checkpoints that it asks for."""

from __future__ import annotations

import time

import ray.train

from engine.nodes.hand_over import leaving
from engine.telemetry import Reporter

LAST_SECONDS = 10.0
"""So long before the node goes, and twice as long as a checkpoint takes, a last one is kept."""


class Notice:
    """Knows of the nodes of one group of train workers that are going away. Each rank has one.

    One checkpoint is due at once, and another one shortly before the node goes. Ray Train starts
    the workers again when it is gone, and what was trained since the last checkpoint is lost.
    """

    def __init__(self, reporter: Reporter, rank: int):
        self._reporter, self._rank = reporter, rank
        self._info: ray.train.PreemptionInfo | None = None
        self._kept: set[str] = set()
        self._last = False
        self._due_at: float | None = None
        self._took = 0.0

    def look(self) -> None:
        """Ask Ray Train. Every rank calls this equally often, and waits for the others."""
        self._info = ray.train.get_preemption_info()

    def is_due(self) -> bool:
        """Whether a checkpoint is due. Ranks' clocks differ: one of them decides."""
        due = self._info is not None and (self._is_new() or (self._ends_soon() and not self._last))
        if due and self._due_at is None:
            self._due_at = time.monotonic()
        return due

    def kept(self) -> None:
        """A checkpoint was kept, for whatever reason."""
        if self._due_at is not None:
            self._took, self._due_at = time.monotonic() - self._due_at, None
        if self._info is None:
            return
        new = [node for node in self._info.preempted_node_ids if node not in self._kept]
        self._kept |= set(new)
        self._last = self._last or self._ends_soon()
        if new and self._rank == 0:
            nodes = " and ".join(leaving(node, self._deadline()) for node in new)
            text = f"{nodes}: training has kept a checkpoint and goes on until then"
            self._reporter.send("note", text=text, node=new[0])

    def _is_new(self) -> bool:
        return self._info is not None and not self._kept.issuperset(self._info.preempted_node_ids)

    def _ends_soon(self) -> bool:
        moment = self._deadline()
        return moment is not None and moment - time.time() <= LAST_SECONDS + 2 * self._took

    def _deadline(self) -> float | None:
        """When the first node goes, in seconds since 1970; None: unknown."""
        moment = self._info.deadline_ms if self._info is not None else None
        return moment / 1000 if moment else None
