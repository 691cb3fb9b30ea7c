"""Options of the group `gate`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class GateConfig:
    """Dropping mixes that show nothing of the kind: a CLIP scores each mix by "with" against
    "without" the superclass.
    """

    clip: str | None = None
    """CLIP model: a folder or hub id for transformers, such as `openai/clip-vit-base-patch32` [C],
    or `open_clip:NAME:WEIGHTS`, where WEIGHTS is a tag or a file (also `open_clip:hf-hub:ID`,
    `open_clip:local-dir:FOLDER`). None: no gate.
    """
    threshold: float | None = None
    """Least score of a mix that is used, 0 to 1; decided in the mixer. None: `quantile` decides."""
    quantile: float = 0.1
    """Share of mixes, those with the lowest scores, that is dropped: at least 0 and below 1. Needs
    all scores, so it is decided when all mixes are there: in `--run.mode staged`, by `diffmix
    synthesize` and by `diffmix filter`. [P] 0.1
    """
    prompts: tuple[str, str] = (
        "a photo with a {superclass} on it",
        "a photo without a {superclass} on it",
    )
    """What a good mix is called and what a bad one: the score is the softmax's probability of the
    first. [C]
    """
