"""Losses of the classifier, for soft labels and for long tails.

Each loss is published as l_c(z), the loss of logits z for a hard label c. For a soft label y it is
sum_c y_c l_c(z) here. It is therefore linear in the label: the loss of a mix is the mix of its
classes' losses, as in CutMix and CMO.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

from diffmix.config import TrainConfig


class Loss:
    """The loss that `train.loss` and `train.reweight` choose.

    `class_sizes` counts the real training images of each class, at least 1. Each class has a prior,
    a margin and a weight, which are kept on `device`.
    """

    def __init__(
        self,
        config: TrainConfig,
        class_sizes: Int[np.ndarray, " classes"],
        device: torch.device | str = "cpu",
        has_mixes: bool = True,
    ):
        """`has_mixes` is whether labels are soft; see `train.reweight_mean`."""
        self.config = config
        self._by_samples = config.reweight_mean == "torch" and has_mixes

        def tensor(values: Float64[np.ndarray, " classes"]) -> Float32[Tensor, " classes"]:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self._log_prior = tensor(np.log(class_sizes / class_sizes.sum()))
        self._margins = tensor(ldam_margins(class_sizes, config.ldam_max_margin))
        self._weights = tensor(class_balanced_weights(class_sizes, config.reweight_beta))

    def __call__(
        self,
        logits: Float[Tensor, "batch classes"],
        labels: Float32[Tensor, "batch classes"],
        epoch: int,
    ) -> Float32[Tensor, ""]:
        """The mean loss of the batch, computed in float32. `epoch` counts from 0."""
        weighted = self.config.reweight == "class-balanced" or (
            self.config.reweight == "drw" and epoch >= self.config.drw_epoch
        )
        losses = self._of_classes(logits.float())
        weights = self._weights if weighted else None
        return soft_mean(losses, labels, weights, self._by_samples)

    def _of_classes(
        self, logits: Float32[Tensor, "batch classes"]
    ) -> Float32[Tensor, "batch classes"]:
        if self.config.loss == "ldam":
            scale = self.config.ldam_scale
            # The logits of a cosine head are scaled already.
            scaled = logits if self.config.ldam_head == "cosine" else scale * logits
            return ldam(scaled, scale * self._margins)
        if self.config.loss == "balanced-softmax":
            return cross_entropy(logits + self._log_prior)
        if self.config.loss == "focal":
            return focal(logits, self.config.focal_gamma)
        return cross_entropy(logits)


def soft_mean(
    losses: Float[Tensor, "batch classes"],
    labels: Float[Tensor, "batch classes"],
    weights: Float[Tensor, " classes"] | None = None,
    by_samples: bool = False,
) -> Float[Tensor, ""]:
    """Mean over the batch of `sum_c y_c l_c`, for labels y and losses l.

    With class weights w, the losses of class c count w_c times, and the sum is divided by the
    weights of the samples instead of their number, as torch's `cross_entropy(weight=w)` does for
    hard labels. The weight of a soft label is the mean over its classes. A label that sums to less
    than 1 counts less, with and without weights. With `by_samples` the sum is divided by the number
    of samples in any case, as torch does for soft labels.
    """
    if weights is None:
        return (labels * losses).sum(1).mean()
    weighted = labels * weights
    if by_samples:
        return (weighted * losses).sum(1).mean()
    return (weighted * losses).sum() / (weighted.sum(1) / labels.sum(1)).sum()


def cross_entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """`-log softmax(z)_c`: the cross-entropy for each class that the label could be."""
    return -logits.log_softmax(1)


def focal(logits: Float[Tensor, "batch classes"], gamma: float) -> Float[Tensor, "batch classes"]:
    """`-(1 - p_c)^gamma log p_c` with p = softmax(z), gamma >= 0 (Lin et al., ICCV 2017)."""
    log_p = logits.log_softmax(1)
    # A power below 1 has an infinite slope at 0.
    missing = (-torch.expm1(log_p)).clamp_min(1e-12)
    return -(missing**gamma) * log_p


def ldam(
    logits: Float[Tensor, "batch classes"], margins: Float[Tensor, " classes"]
) -> Float[Tensor, "batch classes"]:
    """The cross-entropy for class c after its own logit was lowered by `margins[c]`.

    Cao et al., NeurIPS 2019, equation 10. `logits` are the scale times the cosines, and `margins`
    the scale times `ldam_margins`.
    """
    # The denominator without class c, then with it. For the most probable class, the others are
    # summed: 1 - p would cancel there.
    log_p = logits.log_softmax(1)
    top = torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, log_p.argmax(1, keepdim=True), True)
    rest_of_top = log_p.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True)
    rest = torch.where(top, rest_of_top, torch.log1p(-log_p.masked_fill(top, -torch.inf).exp()))
    lowered = log_p - margins
    return torch.logaddexp(rest, lowered) - lowered


def ldam_margins(
    class_sizes: Int[np.ndarray, " classes"], max_margin: float
) -> Float64[np.ndarray, " classes"]:
    """Margins proportional to n_c^(-1/4); the largest is `max_margin` (Cao et al., 2019)."""
    margins = class_sizes.astype(float) ** -0.25
    return max_margin * margins / margins.max()


def class_balanced_weights(
    class_sizes: Int[np.ndarray, " classes"], beta: float
) -> Float64[np.ndarray, " classes"]:
    """Inverse effective numbers `(1 - beta) / (1 - beta^n_c)`, scaled to a mean of 1.

    Cui et al., CVPR 2019. `beta` is in [0, 1).
    """
    weights = (1 - beta) / (1 - beta ** class_sizes.astype(float))
    return weights / weights.mean()
