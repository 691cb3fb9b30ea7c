"""What each phase of a run cost: the hours of nodes that the budget has measured, at their prices,
shared out to the phases that held GPUs at the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from engine.budget.spending import EVENT
from engine.placement.cluster import LABEL, MIX_LABEL, TRAIN_LABEL
from engine.results.gpu_hours import Held, held

IDLE = "idle"
"""Nodes that were up while no phase that uses them held a GPU."""


def cost(
    events: Sequence[dict], prices: Mapping[str, float], separate: bool
) -> dict[str, float] | None:
    """Dollars by phase, and of `IDLE`. None where nothing was measured, or no node has a price.

    `prices` are dollars an hour of a node, by label. Between two measurements, a node's dollars go
    to the phases by the GPU-hours that they held. Where mixers keep to their nodes (`separate`),
    those labeled for mixing are the mixers' alone, and those labeled for training the others'.
    """
    measured = [event for event in events if event["event"] == EVENT and "node_hours" in event]
    if not measured or not prices:
        return None
    times = np.array([event["time"] for event in measured])
    phases = held(events)
    shares = {phase: np.diff(_held_until(times, spans)) for phase, spans in phases.items()}
    found: dict[str, float] = {}
    for label, price in prices.items():
        up = np.array([event["node_hours"].get(label, 0.0) for event in measured])
        dollars = price * np.diff(up, prepend=0.0)
        claims = {p: shares[p] for p in shares if not separate or _may_use(p, label)}
        total = np.sum([*claims.values(), np.zeros(len(times) - 1)], axis=0)
        for phase, share in claims.items():
            part = np.divide(share, total, out=np.zeros_like(total), where=total > 0)
            found[phase] = found.get(phase, 0.0) + float(part @ dollars[1:])
        # What the first measurement holds already was spent before there were two.
        unclaimed = float(dollars[1:][total == 0].sum() + dollars[0])
        found[IDLE] = found.get(IDLE, 0.0) + unclaimed
    return found


def _may_use(phase: str, label: str) -> bool:
    if label == MIX_LABEL[LABEL]:
        return phase == "mix"
    return label != TRAIN_LABEL[LABEL] or phase != "mix"


def _held_until(times: Float[np.ndarray, " n"], spans: Sequence[Held]) -> Float[np.ndarray, " n"]:
    """GPU-seconds that were held before each of `times`."""
    total = np.zeros(len(times))
    for start, end, gpus in spans:
        total += gpus * np.clip(times - start, 0.0, end - start)
    return total
