"""95 % intervals of accuracies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def of_mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more values, and the half width of its interval by Student's t."""
    from scipy import stats

    found = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)


def of_share(share: float, images: int) -> tuple[float, float]:
    """Wilson's interval (low, high) of a share in [0, 1] that was counted on so many images. It is
    the uncertainty of a finite test set alone, not that of training.
    """
    z = 1.959963984540054
    center = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images)
    half *= float(np.sqrt(share * (1 - share) / images + z * z / (4 * images * images)))
    return center - half, center + half
