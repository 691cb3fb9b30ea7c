"""Samples that go through the model at once: a batch, until memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from diffmix.errors import UserError, reason
from diffmix.generator.device.memory import release
from diffmix.personalize.batches import Batch

log = logging.getLogger(__name__)
T = TypeVar("T")


class Rows:
    """Splits batches into parts that fit in memory. Owned by one process's training.

    A worker that is not alone does not split: the others already wait for its gradients.
    """

    def __init__(self, alone: bool, say: Callable[[str], None] | None = None):
        self.alone, self.say = alone, say
        self.most = 0
        """The most rows in a part; 0: all that there are."""
        self._seen = 0  # the most rows in a batch so far

    def of(self, batch: Batch) -> Iterator[tuple[Tensor, ...]]:
        """The batch in parts. Its loss is a weighted sum over samples: the parts' losses add up."""
        rows = len(batch.latents)
        self._seen = max(self._seen, rows)
        return zip(*(tensor.split(self.most or rows) for tensor in batch), strict=True)

    def retried(self, work: Callable[[], T], forget: Callable[[], None]) -> T:
        """What `work` gives. Where memory runs out, `forget` undoes what it has done, and it begins
        anew with half as many rows in a part. Raises `UserError` where one row does not fit.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                text = reason(error)
            # Outside of `except`: the error's traceback holds the tensors that did not fit.
            forget()
            release()
            self._halve(text)

    def _halve(self, text: str) -> None:
        most = self.most or self._seen
        if most <= 1 or not self.alone:
            raise UserError(
                f"Personalization with {most} images at once does not fit in memory ({text}); "
                "lower --personalize.batch_size or large_batch and raise "
                "--personalize.gradient_accumulation_steps, or set "
                "--personalize.gradient_checkpointing True."
            )
        self.most = most // 2
        said = f"memory ran out ({text}): personalization accumulates {self.most} images at a time"
        log.warning(said)
        if self.say:
            self.say(said)
