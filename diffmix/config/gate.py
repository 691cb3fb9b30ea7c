"""Options of the group `gate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from diffmix.options.markers import Share, Usual


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Rejecting mixes that do not show the superclass: a CLIP scores each mix."""

    clip: Usual[str | None] = None
    """CLIP model: a transformers folder, a hub id or `open_clip:NAME:WEIGHTS`. WEIGHTS is a tag or
    a file; `open_clip:hf-hub:ID` and `open_clip:local-dir:FOLDER` are read too. None: no gate. [C]
    openai/clip-vit-base-patch32
    """
    threshold: Usual[Share | None] = None
    """Lowest score of an accepted mix. The mixer decides at once. None: `quantile` decides."""
    quantile: Usual[Annotated[float, Interval(ge=0, lt=1)]] = 0.1
    """Share of mixes to reject, those with the lowest scores. It needs the scores of all mixes, so
    it works with `run.mode staged`, `diffmix synthesize` and `diffmix filter`. [P] 0.1
    """
    prompts: tuple[str, str] = (
        "a photo with a {superclass} on it",
        "a photo without a {superclass} on it",
    )
    """Description of a good mix, and of a bad one. The score is the softmax probability of the
    first. [C]
    """
