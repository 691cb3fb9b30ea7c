"""Soft labels of mixes (paper, section 3.4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def soft_label(
    source: ArrayLike,
    target: ArrayLike,
    strength: ArrayLike,
    gamma: float,
    num_classes: int,
    scale: float = 1.0,
) -> np.ndarray:
    """`scale * ((1 - s**gamma) * e_source + s**gamma * e_target)`, one row per mix.

    `source` and `target` are class indices and `strength` is in (0, 1]; the three broadcast to one
    shape [N] (or are scalars). Gives float32 [N, num_classes] (or [num_classes]) whose rows sum to
    `scale`. Where source and target are one class, that class gets everything. Raises `ValueError`
    for an index outside 0..num_classes-1.
    """
    source, target, strength = np.broadcast_arrays(
        source, target, np.asarray(strength, dtype=np.float64)
    )
    for labels in (source, target):
        if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(
                f"class indices must lie in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}"
            )
    share = strength**gamma
    label = np.zeros((share.size, num_classes))
    rows = np.arange(share.size)
    label[rows, source.ravel()] = 1.0 - share.ravel()
    label[rows, target.ravel()] += share.ravel()
    return (scale * label).astype(np.float32).reshape(*share.shape, num_classes)


def one_hot(label: ArrayLike, num_classes: int) -> np.ndarray:
    """float32 [..., num_classes] with a 1 at `label`."""
    return (np.asarray(label)[..., None] == np.arange(num_classes)).astype(np.float32)


def smooth(label: np.ndarray, smoothing: float) -> np.ndarray:
    """`(1 - smoothing) * label` plus the rest spread evenly over the classes; each row of [...,
    num_classes] keeps its sum.
    """
    return (1 - smoothing) * label + smoothing * label.mean(-1, keepdims=True)
