"""What a run has cost so far: hours, GPU-hours, and dollars by the prices of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import ray

from engine.placement.cluster import LABEL

OTHER = "other"
"""In `limits.prices`: nodes without a label."""
EVENT = "spent"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What is spent, or what a limit allows."""

    hours: float = 0.0
    gpu_hours: float = 0.0
    usd: float = 0.0
    node_hours: Mapping[str, float] = field(default_factory=dict)
    """Hours of nodes that were up, by label."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The cluster at one moment."""

    time: float
    """Seconds since 1970."""
    gpus: float
    """GPUs in use."""
    nodes: Mapping[str, int]
    """Nodes that are up, by label."""


def look(moment: float) -> Sight:
    """The connected cluster now."""
    nodes: dict[str, int] = {}
    for node in ray.nodes():
        if node["Alive"]:
            label = node.get("Labels", {}).get(LABEL, OTHER)
            nodes[label] = nodes.get(label, 0) + 1
    gpus = ray.cluster_resources().get("GPU", 0.0) - ray.available_resources().get("GPU", 0.0)
    return Sight(time=moment, gpus=max(0.0, gpus), nodes=nodes)


class Meter:
    """Adds up what is seen of the cluster. Owned by one budget."""

    def __init__(self, prices: Mapping[str, float], spent: Spent):
        """`prices` are dollars an hour of a node, by label; `spent` is what is spent already."""
        self._prices = prices
        self._last: Sight | None = None
        self.spent = spent

    def add(self, sight: Sight) -> None:
        """Take the cluster as it was at the last sight for the time since then."""
        if self._last is not None:
            hours = max(0.0, sight.time - self._last.time) / 3600
            rate = self.rate(self._last.nodes)
            up = dict(self.spent.node_hours)
            for label, count in self._last.nodes.items():
                up[label] = up.get(label, 0.0) + hours * count
            self.spent = Spent(
                hours=self.spent.hours + hours,
                gpu_hours=self.spent.gpu_hours + hours * self._last.gpus,
                usd=self.spent.usd + hours * rate,
                node_hours=up,
            )
        self._last = sight

    def rate(self, nodes: Mapping[str, int]) -> float:
        """Dollars an hour."""
        return sum(count * self._prices.get(label, 0.0) for label, count in nodes.items())


def spent_before(events: Iterable[dict]) -> Spent:
    """What earlier attempts in the run folder have cost. Each event has the sum so far."""
    found = [event for event in events if event["event"] == EVENT]
    if not found:
        return Spent()
    last = found[-1]
    return Spent(
        hours=last["hours"],
        gpu_hours=last["gpu_hours"],
        usd=last["usd"],
        node_hours=last.get("node_hours", {}),
    )
