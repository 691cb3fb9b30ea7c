"""Soft labels of mixes (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int


def soft_label(
    source: Int[np.ndarray, "*mixes"] | Sequence[int] | int,
    target: Int[np.ndarray, "*mixes"] | Sequence[int] | int,
    strength: Float[np.ndarray, "*mixes"] | Sequence[float] | float,
    gamma: float,
    num_classes: int,
    scale: float = 1.0,
) -> Float32[np.ndarray, "*mixes {num_classes}"]:
    """`scale * ((1 - s**gamma) * e_source + s**gamma * e_target)`: the labels of one or many mixes.

    `source` and `target` are class indices, and `strength` is in (0, 1]. Arrays, lists and scalars
    may be combined: they broadcast. A row of the result sums to `scale`. If source and target are
    the same class, that class gets everything. Raises `ValueError` for an index outside
    0..num_classes-1.
    """
    source, target, strength = np.broadcast_arrays(
        source, target, np.asarray(strength, dtype=np.float64)
    )
    for labels in (source, target):
        if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(
                f"class indices must lie in 0..{num_classes - 1}, "
                f"got {labels.min()}..{labels.max()}"
            )
    share = strength**gamma
    label = np.zeros((share.size, num_classes))
    rows = np.arange(share.size)
    label[rows, source.ravel()] = 1.0 - share.ravel()
    label[rows, target.ravel()] += share.ravel()
    return (scale * label).astype(np.float32).reshape(*share.shape, num_classes)


def one_hot(
    label: Int[np.ndarray, "*images"] | Sequence[int] | int, num_classes: int
) -> Float32[np.ndarray, "*images {num_classes}"]:
    """1 at the class `label`, 0 elsewhere."""
    return (np.asarray(label)[..., None] == np.arange(num_classes)).astype(np.float32)


def smooth(
    label: Float[np.ndarray, "*images classes"],
    smoothing: float,
    form: Literal["uniform", "others"] = "uniform",
) -> Float[np.ndarray, "*images classes"]:
    """`(1 - smoothing) * label`, and something for each class. The dtype stays.

    `smoothing` is in [0, 1]. `uniform` spreads the rest of the label evenly over the classes, so
    that each row keeps its sum. `others` adds `smoothing / (classes - 1)` to each class, whatever
    the label's sum is, as the reference implementation does: a row's sum then is
    `(1 - smoothing) * sum + smoothing * classes / (classes - 1)`.
    """
    if form == "others":
        return (1 - smoothing) * label + label.dtype.type(smoothing / (label.shape[-1] - 1))
    return (1 - smoothing) * label + smoothing * label.mean(-1, keepdims=True)
