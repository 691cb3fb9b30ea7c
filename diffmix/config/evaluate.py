"""Options of the group `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import NonNegativeInt

from diffmix.options.markers import Place, Unit


def _timm_folder(text: str) -> str:
    return "local-dir:" if text.startswith("local-dir:") else ""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured at the end."""

    mixes: Annotated[NonNegativeInt, Unit("mixes")] = 0
    """Stored mixes whose faithfulness and diversity `diffmix evaluate` measures; 0 is none. They
    are drawn by `run.seed`. A Frechet distance needs some thousands.
    """
    features: Annotated[str, Place("name", _timm_folder)] = "clip"
    """What measures the distance between images: `clip` or a timm model. `clip` is the image tower
    of `gate.clip`. A timm model comes with its pre-trained weights, such as `inception_v3`,
    `hf-hub:ID` or `local-dir:FOLDER`.
    """
    many_above: Annotated[NonNegativeInt, Unit("images")] = 20
    """A class with more training images counts as many-shot. [C] 20 for CUB, 30 for Flowers"""
    few_below: Annotated[NonNegativeInt, Unit("images")] = 5
    """A class with fewer training images counts as few-shot. Classes between `few_below` and
    `many_above` are medium-shot. [C] 5 for CUB, 10 for Flowers
    """
