"""How likely each target class is for each source class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


@runtime_checkable
class PairWeights(Protocol):
    """Weights of (source class, target class) pairs, given to `MixPlan`."""

    @property
    def identity(self) -> str:
        """What tells these weights from others. It is part of the plan's identity, so weights that
        give another table need another identity.
        """
        ...

    def table(
        self, class_sizes: Int[np.ndarray, " classes"]
    ) -> Float[np.ndarray, "classes classes"]:
        """Row s: the relative weights, 0 or more, of the targets of source class s.

        Each row needs a weight above 0. `class_sizes` counts the real training images. How often a
        class is a source is not decided here but by `mix.source_sampling`.
        """
        ...


@dataclass(frozen=True)
class Uniform:
    """All target classes alike (paper, section 3.3)."""

    identity: str = "uniform"

    def table(
        self, class_sizes: Int[np.ndarray, " classes"]
    ) -> Float[np.ndarray, "classes classes"]:
        return _for_each_source(np.ones(len(class_sizes)))


@dataclass(frozen=True)
class Inverse:
    """Target classes with weight 1 / (class size + 1), as the reference code draws mixes of long
    tails.
    """

    identity: str = "inverse"

    def table(
        self, class_sizes: Int[np.ndarray, " classes"]
    ) -> Float[np.ndarray, "classes classes"]:
        return _for_each_source(1.0 / (class_sizes + 1.0))


def _for_each_source(
    weights: Float[np.ndarray, " classes"],
) -> Float[np.ndarray, "classes classes"]:
    return np.broadcast_to(weights, (len(weights), len(weights)))


PAIR_WEIGHTS: dict[str, PairWeights] = {
    weights.identity: weights for weights in (Uniform(), Inverse())
}
"""Name in `--mix.target_sampling` -> weights."""
