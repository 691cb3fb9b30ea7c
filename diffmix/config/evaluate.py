"""Options of the group `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EvaluateConfig:
    """What is measured at the end: how the test set's figures are grouped, and what `diffmix
    evaluate` says of mixes.
    """

    mixes: int = 0
    """Number of stored mixes, drawn at random by `run.seed`, whose faithfulness and diversity are
    measured; 0 is off. A Frechet distance needs some thousands.
    """
    features: str = "clip"
    """What distances between images are measured with: `clip`, the image tower of `gate.clip`, or a
    timm model with its pre-trained weights, such as `inception_v3` (also timm's `hf-hub:ID` and
    `local-dir:FOLDER`).
    """
    many_above: int = 20
    """A class with more training images than this counts as many-shot. [C] 20 for CUB, 30 for
    Flowers
    """
    few_below: int = 5
    """A class with fewer training images than this counts as few-shot, the rest as medium-shot. [C]
    5 for CUB, 10 for Flowers
    """
