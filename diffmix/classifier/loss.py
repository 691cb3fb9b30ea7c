"""Loss and learning-rate schedule of the classifier."""

from __future__ import annotations

import math

import torch


def soft_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Mean over the batch of `-sum_c y_c log softmax(logits)_c`, with label smoothing that keeps each row's mass.

    `logits` [B, C] of any float type (computed in fp32), `labels` float32 [B, C]. Gives a scalar.
    """
    if smoothing:
        labels = (1 - smoothing) * labels + smoothing * labels.sum(1, keepdim=True) / labels.shape[1]
    return -(labels * logits.float().log_softmax(1)).sum(1).mean()


def learning_rate(step: int, total_steps: int, peak: float, warmup_fraction: float) -> float:
    """Linear warm-up over the first `warmup_fraction` of the steps, then a cosine to 0. `step` counts from 0."""
    warmup = int(total_steps * warmup_fraction)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
