"""Losses, for soft labels and for long tails, and learning-rate schedules of the classifier.

Each loss is published as l_c(z), the loss of logits z for a hard label c. For a soft label y it is
sum_c y_c l_c(z) here: linear in the label, so that the loss of a mix is the mix of its classes'
losses, as CutMix and CMO have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from diffmix.config import TrainConfig


class Loss:
    """The loss that `train` asks for, over classes of `class_sizes` (int [C]) real training images."""

    def __init__(
        self, train: TrainConfig, class_sizes: np.ndarray, device: torch.device | str = "cpu"
    ):
        self.train = train
        self._log_prior = torch.tensor(
            np.log(class_sizes / class_sizes.sum()), dtype=torch.float32, device=device
        )
        self._margins = torch.tensor(
            ldam_margins(class_sizes, train.ldam_max_margin), dtype=torch.float32, device=device
        )
        weights = class_balanced_weights(class_sizes, train.reweight_beta)
        self._weights = torch.tensor(weights, dtype=torch.float32, device=device)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, epoch: int) -> torch.Tensor:
        """The batch's loss, a scalar. `logits` [B, C] of any float type (computed in fp32),
        `labels` float32 [B, C], `epoch` from 0.
        """
        reweight = self.train.reweight
        weighted = reweight == "class-balanced" or (
            reweight == "drw" and epoch >= self.train.drw_epoch
        )
        return soft_mean(
            self._of_classes(logits.float()), labels, self._weights if weighted else None
        )

    def _of_classes(self, logits: torch.Tensor) -> torch.Tensor:
        if self.train.loss == "ldam":
            return ldam(logits, self.train.ldam_scale * self._margins)
        if self.train.loss == "balanced-softmax":
            return cross_entropy(logits + self._log_prior)
        if self.train.loss == "focal":
            return focal(logits, self.train.focal_gamma)
        return cross_entropy(logits)


def soft_mean(
    losses: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the batch of `sum_c y_c l_c`; `losses` and `labels` are [B, C], `weights` is [C].

    With class weights w, a class's losses count w_c times and the sum is divided by the samples'
    weights instead of their number, as torch's `cross_entropy(weight=w)` does; a soft label's
    weight is the mean over its classes. A label that sums to less than 1 counts less, weighted or
    not.
    """
    if weights is None:
        return (labels * losses).sum(1).mean()
    weighted = labels * weights
    return (weighted * losses).sum() / (weighted.sum(1) / labels.sum(1)).sum()


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    """float [B, C]: `-log softmax(z)_c`, the cross-entropy for each class that the label could be."""
    return -logits.log_softmax(1)


def focal(logits: torch.Tensor, gamma: float) -> torch.Tensor:
    """float [B, C]: `-(1 - p_c)^gamma log p_c` with p = softmax(z) (Lin et al., ICCV 2017)."""
    log_p = logits.log_softmax(1)
    return (
        -((-torch.expm1(log_p)).clamp_min(1e-12) ** gamma) * log_p
    )  # a power below 1 has no slope at 0


def ldam(logits: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
    """float [B, C]: the cross-entropy for class c after c's own logit was lowered by `margins[c]`
    (Cao et al., NeurIPS 2019).

    `logits` are the scale times the cosines and `margins` [C] the scale times `ldam_margins`.
    """
    # The denominator without and with class c itself: the largest class's complement is summed
    # exactly, as 1 - p would cancel.
    log_p = logits.log_softmax(1)
    top = torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, log_p.argmax(1, keepdim=True), True)
    rest_of_top = log_p.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True)
    rest = torch.where(top, rest_of_top, torch.log1p(-log_p.masked_fill(top, -torch.inf).exp()))
    lowered = log_p - margins
    return torch.logaddexp(rest, lowered) - lowered


def ldam_margins(class_sizes: np.ndarray, max_margin: float) -> np.ndarray:
    """float [C]: margins proportional to n_c^(-1/4), the largest of them `max_margin`."""
    margins = class_sizes.astype(float) ** -0.25
    return max_margin * margins / margins.max()


def class_balanced_weights(class_sizes: np.ndarray, beta: float) -> np.ndarray:
    """float [C] with mean 1: inverse effective numbers `(1 - beta) / (1 - beta^n_c)` (Cui et al.,
    CVPR 2019).
    """
    weights = (1 - beta) / (1 - beta ** class_sizes.astype(float))
    return weights / weights.mean()


def learning_rate(
    step: int, total_steps: int, peak: float, warmup_fraction: float, drops: Sequence[int] = ()
) -> float:
    """Linear warm-up over the first `warmup_fraction` of the steps, then a cosine to 0. `step`
    counts from 0.

    With `drops`, steps that rise, there is no cosine: from each of them on the rate is a hundredth
    of what it was.
    """
    warmup = int(total_steps * warmup_fraction)
    if step < warmup:
        return peak * (step + 1) / warmup
    if drops:
        return peak * 0.01 ** sum(step >= drop for drop in drops)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
