"""Options of the group `gate`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from pydantic import PositiveInt

from diffmix.options.markers import OneOf, PathOrName, Place, Share, Usual
from diffmix.options.registry import names_of


def gate_names() -> Iterable[str]:
    """What `gate.kind` may name. Gates read `GateConfig`, so they are not imported here."""
    return names_of("diffmix.gates")


def _open_clip(text: str) -> str:
    """What stands before the path in `open_clip:local-dir:FOLDER` and `open_clip:NAME:FILE`."""
    found = re.match("open_clip:(?!hf-hub:)(local-dir:|[^:]+:)", text)
    certain = found and (found[1] == "local-dir:" or os.path.exists(text[found.end() :]))
    return found[0] if found and certain else ""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Rejecting mixes by a score: of a CLIP, of a classifier, or of a gate of your own."""

    kind: Annotated[str, OneOf(gate_names, own=True)] | None = None
    """Which gate scores the mixes. None: the gate whose option is set, `clip` or `classifier`."""
    clip: Usual[Annotated[str, Place("path or name", _open_clip)] | None] = None
    """CLIP model: a transformers folder, a hub id or `open_clip:NAME:WEIGHTS`. WEIGHTS is a tag or
    a file; `open_clip:hf-hub:ID` and `open_clip:local-dir:FOLDER` are read too. None: no gate. [C]
    openai/clip-vit-base-patch32
    """
    classifier: PathOrName | None = None
    """Classifier of the accuracy gate: a finished run folder, a classifier's folder, or `nano`. The
    score of a mix is 1 / rank of its target or source class, whichever ranks better. SaSPA
    (arXiv 2406.14551) describes this gate. None: no accuracy gate.
    """
    top_k: PositiveInt = 10
    """Lowest rank that the accuracy gate accepts; SaSPA has 10. `threshold` overrides it."""
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
