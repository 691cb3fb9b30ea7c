"""The gate: a CLIP looks at each finished mix, and those that show nothing of the kind are dropped
(the paper's filter).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffmix.config import GateConfig
from diffmix.gates.clip import clip_fingerprint, load_clip
from diffmix.generator.concept import prompt

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Gate:
    """How mixes are scored and which are accepted. Small and picklable; made by `make_gate`."""

    clip: str
    prompts: tuple[str, str]
    """What a good mix is called and what a bad one, as CLIP gets it."""
    scorer: str
    """Hash of CLIP and prompts: scores with equal ones are the same scores."""
    threshold: float | None
    """Least accepted score. None: `quantile` decides."""
    quantile: float | None
    """Share that is dropped. None: `threshold` decides."""
    cut: float | None
    """Least score that is accepted now: the threshold, or what a quantile of earlier scores came
    to, or None (all are).
    """

    def accepts(self, scores: np.ndarray) -> np.ndarray:
        """bool [n] for float [n]."""
        return (
            np.ones(len(scores), dtype=bool)
            if self.cut is None
            else np.asarray(scores, dtype=np.float64) >= self.cut
        )


def make_gate(config: GateConfig, superclass: str) -> Gate | None:
    """The gate that is configured, None without one.

    `UserError` for a CLIP folder that does not exist and for a prompt with unknown braces.
    """
    if config.clip is None:
        return None
    good, bad = (_spell(template, superclass) for template in config.prompts)
    scorer = hashlib.sha256(
        json.dumps([clip_fingerprint(config.clip), good, bad]).encode()
    ).hexdigest()[:16]
    quantile = config.quantile if config.threshold is None else None
    return Gate(config.clip, (good, bad), scorer, config.threshold, quantile, config.threshold)


def _spell(template: str, superclass: str) -> str:
    article = (
        "an" if superclass[:1].lower() in "aeiou" else "a"
    )  # "an aircraft", as the reference has it
    return prompt(
        template.replace(" a {superclass}", f" {article} {{superclass}}"),
        None,
        superclass,
        superclass,
    )


class Scorer:
    """A gate's CLIP on one device. Owned by whoever makes it; there is nothing to close."""

    def __init__(self, gate: Gate, device: str = "cpu"):
        self.clip = load_clip(gate.clip, device)
        self._prompts = self.clip.embed_prompts(list(gate.prompts))

    def score(self, pictures: list[Image]) -> np.ndarray:
        """float32 [n] in [0, 1]: the softmax's probability of the first prompt against the second
        (reference: filter_syn_data.py).
        """
        if not pictures:
            return np.zeros(0, dtype=np.float32)
        logits = self.clip.logit_scale * self.clip.embed_pictures(pictures) @ self._prompts.T
        return logits.softmax(dim=1)[:, 0].numpy()


def quantile_cut(scores: np.ndarray, quantile: float) -> float:
    """The score below which the lowest `quantile` of mixes lie, interpolated linearly as the
    reference does; those at it are kept.
    """
    return float(np.quantile(np.asarray(scores, dtype=np.float64), quantile))
