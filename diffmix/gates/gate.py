"""What a gate is, and the rule that turns its scores into accepted and rejected mixes."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32
from PIL.Image import Image

from diffmix.config import GateConfig
from diffmix.strategies import MixSpec


@runtime_checkable
class Scorer(Protocol):
    """A gate with its model on one device. Whoever loads it owns it; there is nothing to close."""

    def score(self, images: Sequence[Image], specs: Sequence[MixSpec]) -> Float32[np.ndarray, " n"]:
        """One score in [0, 1] for each mix, higher for better ones. A mix's score must not depend
        on the others in the call.
        """
        ...


class Gate(abc.ABC):
    """What scores mixes. A subclass is a frozen dataclass of JSON values (lists as tuples): small,
    picklable, and kept in `gate.json`.
    """

    name: ClassVar[str]
    """What `gate.kind` calls it."""
    option: ClassVar[str | None] = None
    """The option of the group `gate` that chooses this gate when it is set. None: `gate.kind` names
    it.
    """

    @classmethod
    @abc.abstractmethod
    def from_options(cls, options: GateConfig, superclass: str, class_names: Sequence[str]) -> Gate:
        """The gate that the options describe. Reads no files. `class_names` are in the order of the
        plan's labels. Raises `UserError` for options that cannot be used.
        """

    @classmethod
    def threshold(cls, options: GateConfig) -> float | None:
        """The lowest accepted score, where the gate has an option of its own for it. None:
        `gate.threshold` and `gate.quantile` decide.
        """
        return None

    def check(self) -> None:  # noqa: B027 - nothing to check is the usual case of a small gate
        """Raise `UserError` for what is missing, before anything large is loaded."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Gates with the same fingerprint give the same scores. Each part of the store keeps it."""

    @abc.abstractmethod
    def load(self, device: str) -> Scorer:
        """What scores on `device`, "cuda" or "cpu"; the gate itself where nothing is loaded. Raises
        `UserError` for a model that cannot be loaded.
        """


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """A gate and which of its scores are accepted. Small and picklable; made by `make_rule`."""

    kind: str
    """The gate's name, or `module:attribute`."""
    gate: Gate
    scorer: str
    """The gate's fingerprint."""
    threshold: float | None
    """Lowest accepted score. None: `quantile` decides."""
    quantile: float | None
    """Share that is rejected. None: `threshold` decides."""
    cut: float | None
    """Lowest score that is accepted now: the threshold, or what a quantile of earlier scores came
    to. None: all are accepted.
    """

    def accepts(self, scores: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether each score is accepted."""
        if self.cut is None:
            return np.ones(len(scores), dtype=bool)
        return np.asarray(scores, dtype=np.float64) >= self.cut

    def load(self, device: str) -> Scorer:
        """The gate's `load`."""
        return self.gate.load(device)

    def decided_by(self, options: GateConfig) -> GateRule:
        """The same gate with the threshold or quantile of other options."""
        threshold, quantile = decision(type(self.gate), options)
        return replace(self, threshold=threshold, quantile=quantile, cut=threshold)

    def to_json(self) -> dict:
        """As JSON values, for `gates.rule_from_json`."""
        return asdict(self)


def decision(kind: type[Gate], options: GateConfig) -> tuple[float | None, float | None]:
    """(threshold, quantile) that the options ask for; one of them is None."""
    threshold = options.threshold
    if threshold is None:
        threshold = kind.threshold(options)
    return threshold, options.quantile if threshold is None else None


def quantile_cut(scores: Float[np.ndarray, " n"], quantile: float) -> float:
    """The score below which the lowest `quantile` of mixes lie, interpolated linearly as the
    reference does. Mixes at it are accepted.
    """
    return float(np.quantile(np.asarray(scores, dtype=np.float64), quantile))
