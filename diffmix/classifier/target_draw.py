"""Drawing mixes from a pool by the size of their target class, for long tails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int


class TargetDraw:
    """Draws a target class with probability proportional to its weight, then one of its mixes,
    uniformly.

    Classes without a mix in the pool are left out until one arrives. One sampler owns it.
    """

    def __init__(
        self,
        weights: Float[np.ndarray, " classes"],
        targets: Callable[[int], Int[np.ndarray, " mixes"]],
    ):
        """`targets(n)` gives the target classes of the pool's mixes from number n on."""
        self._weights, self._targets = weights, targets
        self._known = 0
        self._mixes: dict[int, list[int]] = {}
        """Target class -> numbers of its mixes, in order of arrival."""
        self._classes: list[int] = []
        self._cumulative = np.zeros(0)

    def __call__(self, class_share: float, mix_share: float) -> int:
        """The number of a mix. Both shares are uniform in [0, 1); the pool holds a mix."""
        self._learn(self._targets(self._known))
        place = np.searchsorted(self._cumulative, class_share * self._cumulative[-1], side="right")
        mixes = self._mixes[self._classes[min(int(place), len(self._classes) - 1)]]
        return mixes[int(mix_share * len(mixes))]

    def _learn(self, targets: Int[np.ndarray, " mixes"]) -> None:
        if not len(targets):
            return
        for target in targets.tolist():
            self._mixes.setdefault(target, []).append(self._known)
            self._known += 1
        if len(self._classes) < len(self._mixes):
            self._classes = sorted(self._mixes)
            self._cumulative = np.cumsum(self._weights[self._classes])


def inverse_weights(class_sizes: Int[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
    """`1 / (n_c + 1)` for a class of n_c real training images, as in the reference code."""
    return 1.0 / (class_sizes + 1.0)
