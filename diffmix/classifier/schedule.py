"""The steps of a training: how many an epoch has, how large they are, the learning rate of each,
and after which epochs the classifier is validated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffmix.config import TrainConfig
from diffmix.errors import UserError

_REFERENCE_EVERY = 4
"""Epochs between validations in the reference implementation."""


class Schedule:
    """The schedule that `train` options give for a number of real images and of train workers.

    With `protocol reference` it is the reference implementation's: `train_hub.py`'s, and with the
    options of the long-tail recipes (`lr_per`, `last_batch`, `eval_every`) `train_hub_imb.py`'s.
    """

    def __init__(self, options: TrainConfig, real_size: int, world_size: int = 1):
        """Raises `UserError` where an epoch would have no step."""
        self._options = options
        self._reference = options.protocol == "reference"
        last_batch = options.last_batch or ("skip" if self._reference else "fill")
        batch, samples = options.batch_size, real_size
        if last_batch == "skip":
            # A smaller set is one batch, which all workers share in equal parts.
            batch = min(batch, real_size - real_size % world_size)
            if not batch:
                raise UserError(
                    f"--placement.trainers {world_size} is more than there are training images, "
                    f"{real_size}; ask for fewer."
                )
            samples -= samples % batch
        elif last_batch == "fill":
            samples += -samples % batch
        else:
            samples += -samples % world_size
        self.batch_size = batch
        """Samples of a step, over all workers together. The last step may have fewer."""
        self.samples = samples
        """Samples of an epoch, over all workers together."""
        self.steps = -(-samples // batch)
        """Steps of an epoch."""
        self.skipped = max(0, real_size - samples)
        """Real images that each epoch leaves out; other ones each time."""
        self._total = options.epochs * self.steps
        if last_batch == "skip":
            # The reference's number: it counts the images before batches are left out, and so has
            # more steps than it runs.
            self._total = options.epochs * real_size // batch

    def rate(self, step: int) -> float:
        """The learning rate of a step. `step` counts from the first epoch's start, from 0."""
        options, drops = self._options, self._options.lr_drop_epochs
        total = self._total
        if options.lr_per == "epoch":
            step, total = step // self.steps, options.epochs
        else:
            drops = tuple(epoch * self.steps for epoch in drops)
        of_kind = reference_rate if self._reference else learning_rate
        return of_kind(
            step,
            total,
            options.lr,
            options.warmup_fraction,
            drops=drops,
            drop_factor=options.lr_drop_factor,
        )

    def validates(self, epoch: int) -> bool:
        """Whether the classifier is validated after an epoch, which counts from 0."""
        every = validated_every(self._options)
        if self._reference:
            return epoch % every == 0
        return (epoch + 1) % every == 0 or epoch + 1 == self._options.epochs


def validated_every(options: TrainConfig) -> int:
    """The number that `train.eval_every` stands for."""
    return options.eval_every or (_REFERENCE_EVERY if options.protocol == "reference" else 1)


def learning_rate(
    step: int,
    total: int,
    peak: float,
    warmup_fraction: float,
    *,
    drops: Sequence[int] = (),
    drop_factor: float = 0.01,
) -> float:
    """The learning rate at `step` of `total`, which counts from 0.

    It rises linearly to `peak` over the first `warmup_fraction` of the steps, then follows a cosine
    to 0. With `drops` (rising step numbers) there is no cosine: the rate is multiplied by
    `drop_factor` at each of these steps.
    """
    warmup = int(total * warmup_fraction)
    if step < warmup:
        return peak * (step + 1) / warmup
    if drops:
        return peak * drop_factor ** sum(step >= drop for drop in drops)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def reference_rate(
    step: int,
    total: int,
    peak: float,
    warmup_fraction: float,
    *,
    drops: Sequence[int] = (),
    drop_factor: float = 0.01,
) -> float:
    """The same in the reference implementation: `peak min(1, (t + 1) / W) (1 + cos(pi t / T)) / 2`
    for step t of T, with W = max(1, floor(`warmup_fraction` T)).

    The cosine begins at the first step, so the peak is never quite reached. With `drops` there is
    none, as in `learning_rate`.
    """
    if drops:
        return learning_rate(
            step, total, peak, warmup_fraction, drops=drops, drop_factor=drop_factor
        )
    warmup = max(1, int(warmup_fraction * total))
    return peak * min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / total)) / 2
