"""The paper's gate: a CLIP decides whether a mix shows the superclass at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32
from PIL.Image import Image

from diffmix.config import GateConfig
from diffmix.gates.gate import Gate
from diffmix.generator.concept import prompt
from diffmix.strategies import MixSpec


@dataclass(frozen=True, kw_only=True)
class ClipGate(Gate):
    """Scores by "with" against "without" the superclass (reference: filter_syn_data.py)."""

    name: ClassVar[str] = "clip"
    option: ClassVar[str | None] = "clip"

    clip: str
    """As `gate.clip` has it."""
    prompts: tuple[str, str]
    """Descriptions of a good mix and of a bad one, as CLIP gets them."""

    @classmethod
    def from_options(
        cls, options: GateConfig, superclass: str, class_names: Sequence[str]
    ) -> ClipGate:
        assert options.clip is not None
        good, bad = (_spell(template, superclass) for template in options.prompts)
        return cls(clip=options.clip, prompts=(good, bad))

    def check(self) -> None:
        from diffmix.gates.clip_model import check_clip

        check_clip(self.clip)

    @property
    def fingerprint(self) -> str:
        from diffmix.gates.clip_model import clip_fingerprint

        values = json.dumps([clip_fingerprint(self.clip), *self.prompts])
        return hashlib.sha256(values.encode()).hexdigest()[:16]

    def load(self, device: str) -> ClipScorer:
        return ClipScorer(self, device)


class ClipScorer:
    """A gate's CLIP on one device."""

    def __init__(self, gate: ClipGate, device: str = "cpu"):
        from diffmix.gates.clip_model import load_clip

        self.clip = load_clip(gate.clip, device)
        self._prompts = self.clip.embed_prompts(list(gate.prompts))

    def score(self, images: Sequence[Image], specs: Sequence[MixSpec]) -> Float32[np.ndarray, " n"]:
        """The softmax probability, in [0, 1], of the first prompt against the second."""
        if not images:
            return np.zeros(0, dtype=np.float32)
        logits = self.clip.logit_scale * self.clip.embed_images(list(images)) @ self._prompts.T
        return logits.softmax(dim=1)[:, 0].numpy()


def _spell(template: str, superclass: str) -> str:
    # "an aircraft", as the reference has it
    article = "an" if superclass[:1].lower() in "aeiou" else "a"
    template = template.replace(" a {superclass}", f" {article} {{superclass}}")
    return prompt(template, None, superclass, superclass)


GATES = (ClipGate,)
