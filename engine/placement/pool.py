"""How many mixers the stream may have, and what it may ask the cluster for."""

from __future__ import annotations

from dataclasses import dataclass

from diffmix.config import PlacementConfig
from engine.placement.capacity import Capacity
from engine.placement.cluster import LABEL, MIX_LABEL

_ROUNDING = 1e-9  # sums of fractions of GPUs


@dataclass(frozen=True, kw_only=True)
class MixerPool:
    """The size of the pool of mixers."""

    least: int
    first: int
    """Asked for when the stream starts."""
    most: int
    gpus: float | None = None
    """The most that the stream may ask the cluster for; None: no limit. The same for `cpus`."""
    cpus: float | None = None

    def __str__(self) -> str:
        return str(self.most) if self.least == self.most else f"{self.least}..{self.most}"


def mixer_pool(placement: PlacementConfig, has: Capacity | None = None) -> MixerPool:
    """The pool that `placement.mixers` asks for, on a cluster of that capacity.

    On a cluster that grows, all mixers are asked for at once, and never more than the nodes may
    hold: Ray asks for all or nothing, so a wish that is too large brings no node at all. Of a
    cluster of a fixed size the pool takes the least and grows into what is free.
    """
    least, most = placement.mixers[0], placement.mixers[-1]
    if has is None or not has.grows:
        return MixerPool(least=least, first=least, most=most)
    label = MIX_LABEL[LABEL] if placement.separate else None
    gpus, cpus = has.total("GPU", label), has.total("CPU", label)
    if not placement.separate:
        gpus -= placement.trainers * placement.gpus_per_trainer
        cpus -= placement.trainers * placement.cpus_per_trainer
    if placement.gpus_per_mixer:
        most = min(most, int(gpus / placement.gpus_per_mixer + _ROUNDING))
    rooms = sum(
        node.fits(placement.gpus_per_mixer, placement.cpus_per_mixer) for node in has.labeled(label)
    )
    most = max(least, min(most, rooms))
    return MixerPool(least=least, first=most, most=most, gpus=gpus, cpus=cpus)
