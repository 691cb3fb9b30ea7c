"""CMO: pastes boxes of class-balanced images into the images of a batch, for long tails.

Park et al., "The Majority Can Help the Minority: Context-rich Minority Oversampling", CVPR 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Num
from torch import Tensor

from diffmix.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Paste:
    """What is pasted into one image, and where."""

    row: int
    """Row of the real set that the box is cut from, or number of the mix in the pool."""
    seed: int
    """Seed of the augmentation of that image."""
    kept: float
    """Share of the area that stays, in [0, 1), before the box is clipped to the image."""
    x: float
    """Center of the box as a share of the width, in [0, 1)."""
    y: float
    """Center of the box as a share of the height, in [0, 1)."""
    synthetic: bool = False
    """Whether the box is cut from a mix."""


@runtime_checkable
class Pastes(Protocol):
    """What draws the pastes of an epoch: `PasteSampler` for CMO, `batch_mix.CutMixSampler`."""

    mixes: bool
    """Whether a box may be cut from a mix, as often as a sample is one."""

    def epoch(self, epoch: int, steps: int, batch_size: int) -> list[Paste | None]:
        """What is pasted at each of the `steps * batch_size` places of an epoch; None for nothing.

        `batch_size` is that of the global batch, `epoch` counts from 0. Boxes are cut from real
        images; the caller puts mixes in the place of some of them.
        """
        ...


class PasteSampler:
    """Draws what CMO pastes: first a class, uniformly, then a real image of that class, uniformly.

    As in CMO's code, either all images of a batch get a box or none does. All boxes of a batch lie
    at the same place, and their area is uniform (Beta(1, 1)). Every draw is a function of (seed,
    epoch, place in the epoch) and the same on all ranks. `labels` are those of the real images.
    """

    def __init__(self, labels: Int[np.ndarray, " images"], config: TrainConfig, seed: int):
        self._config, self._seed = config, seed
        self.mixes = config.cmo_mixes
        # An image's probability is 1 / (classes * images of its class), as in CMO's weighted
        # sampler.
        weights = 1.0 / np.bincount(labels)[labels]
        self._cumulative = np.cumsum(weights) / weights.sum()

    def epoch(self, epoch: int, steps: int, batch_size: int) -> list[Paste | None]:
        """See `Pastes.epoch`."""
        first, last = self._config.cmo_skip
        if not first <= epoch < self._config.epochs - last:
            return [None] * (steps * batch_size)
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 3, epoch]))
        pasted = generator.random(steps) < self._config.cmo_probability
        kept, x, y = generator.random((3, steps))
        rows = np.searchsorted(self._cumulative, generator.random(steps * batch_size), side="right")
        # Rounding may leave the last cumulative weight below 1.
        rows = np.minimum(rows, len(self._cumulative) - 1)
        seeds = generator.integers(2**62, size=steps * batch_size)
        pastes: list[Paste | None] = []
        for place in range(steps * batch_size):
            step = place // batch_size
            if not pasted[step]:
                pastes.append(None)
                continue
            pastes.append(
                Paste(
                    row=int(rows[place]),
                    seed=int(seeds[place]),
                    kept=float(kept[step]),
                    x=float(x[step]),
                    y=float(y[step]),
                )
            )
        return pastes


def paste(
    image: Num[Tensor, "channels height width"],
    label: Float[np.ndarray, " classes"],
    other: Num[Tensor, "channels height width"],
    other_label: Float[np.ndarray, " classes"],
    how: Paste,
) -> tuple[Num[Tensor, "channels height width"], Float[np.ndarray, " classes"]]:
    """A copy of `image` with a box of `other` in it, and its label.

    The label is the mean of both labels, weighted by the visible areas.
    """
    height, width = image.shape[1:]
    top, bottom = _side(height, how.kept, how.y)
    left, right = _side(width, how.kept, how.x)
    pasted = image.clone()
    pasted[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    kept = np.float32(1 - (bottom - top) * (right - left) / (height * width))
    return pasted, kept * label + (1 - kept) * other_label


def _side(length: int, kept: float, center: float) -> tuple[int, int]:
    """First pixel of the box along one side and the pixel after its last: CutMix's box, clipped."""
    half = int(length * math.sqrt(1 - kept)) // 2
    middle = int(length * center)
    return max(middle - half, 0), min(middle + half, length)
