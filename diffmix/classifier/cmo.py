"""CMO: boxes of class-balanced real images pasted into the batch's images (Park et al., CVPR 2022),
for long tails.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from diffmix.config import TrainConfig


class Paste(NamedTuple):
    """What is pasted into one image, and where."""

    row: int
    """Row of the real set that the box is cut from."""
    seed: int
    """Seed of that image's own augmentation."""
    kept: float
    """Share of the area that is not to be covered, before the box is clipped to the image; in [0,
    1).
    """
    x: float
    """Center of the box as a share of the width, in [0, 1)."""
    y: float
    """Center of the box as a share of the height, in [0, 1)."""


class PasteSampler:
    """Draws what CMO pastes: the classes uniformly, then an image of the class uniformly. Only real
    images are cut from.

    As in CMO's code a whole batch is pasted into or not, all its images at the same box, whose area
    is uniform (Beta(1, 1)). Every draw is a function of (seed, epoch, place in the epoch), the same
    on all ranks.
    """

    def __init__(self, labels: np.ndarray, train: TrainConfig, seed: int):
        self._train, self._seed = train, seed
        # An image's probability is 1 / (classes * images of its class), as CMO's weighted sampler
        # has it.
        weights = 1.0 / np.bincount(labels)[labels]
        self._cumulative = np.cumsum(weights) / weights.sum()

    def epoch(self, epoch: int, steps: int, batch_size: int) -> list[Paste | None]:
        """For each place of an epoch (`steps` global batches) what is pasted there."""
        first, last = self._train.cmo_skip
        if not first <= epoch < self._train.epochs - last:
            return [None] * (steps * batch_size)
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 3, epoch]))
        pasted = generator.random(steps) < self._train.cmo_probability
        kept, x, y = generator.random((3, steps))
        rows = np.searchsorted(self._cumulative, generator.random(steps * batch_size), side="right")
        rows = np.minimum(
            rows, len(self._cumulative) - 1
        )  # rounding may leave the last cumulated weight below 1
        seeds = generator.integers(2**62, size=steps * batch_size)
        return [
            Paste(
                int(rows[place]),
                int(seeds[place]),
                float(kept[step]),
                float(x[step]),
                float(y[step]),
            )
            if pasted[step]
            else None
            for place, step in enumerate(np.repeat(np.arange(steps), batch_size))
        ]


def paste(
    image: torch.Tensor, label: np.ndarray, other: torch.Tensor, other_label: np.ndarray, how: Paste
) -> tuple[torch.Tensor, np.ndarray]:
    """`image` [3, H, W] with a box of `other` in it (a copy), and the two labels [C] weighted by
    the areas that are seen.
    """
    height, width = image.shape[1:]
    top, bottom = _side(height, how.kept, how.y)
    left, right = _side(width, how.kept, how.x)
    pasted = image.clone()
    pasted[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    kept = np.float32(1 - (bottom - top) * (right - left) / (height * width))
    return pasted, kept * label + (1 - kept) * other_label


def _side(length: int, kept: float, center: float) -> tuple[int, int]:
    """The pixels that a box covers along one side: CutMix's, clipped to the image."""
    half = int(length * math.sqrt(1 - kept)) // 2
    middle = int(length * center)
    return max(middle - half, 0), min(middle + half, length)
