"""Captions of the embedded base model's pre-training images."""

from __future__ import annotations

import numpy as np

from diffmix.nano.data import COLORS, SUPERCLASS, Recipe

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
"""Names of the classes in captions. The data set calls them 0 to 9, names that no caption holds."""

SETTINGS = {"china": "in china", "flower": "on a flower"}
"""Group -> how a caption names its background."""

MENTIONED = 0.5
"""Probability that a caption mentions the size, and likewise color, position and background."""


def caption(recipe: Recipe, name_share: float, rng: np.random.Generator) -> str:
    """A random true caption of an image. It names the class with probability `name_share`."""
    size = "small" if recipe.size < 20 else "large" if recipe.size > 24 else ""
    position = _position(*recipe.shift)
    mention = rng.random(5) < (MENTIONED, MENTIONED, name_share, MENTIONED, MENTIONED)
    words = [
        "a photo of a",
        size if mention[0] else "",
        recipe.color if mention[1] else "",
        NAMES[recipe.label] if mention[2] else "",
        SUPERCLASS,
        f"on the {position}" if position and mention[3] else "",
        SETTINGS[recipe.group] if mention[4] else "",
    ]
    return " ".join(filter(None, words))


def _position(across: float, down: float) -> str:
    if abs(across) > 2:
        return "left" if across < 0 else "right"
    if abs(down) > 2:
        return "top" if down < 0 else "bottom"
    return ""


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    phrases = [
        "a photo of a small large on the left right top bottom",
        SUPERCLASS,
        *COLORS,
        *NAMES,
        *SETTINGS.values(),
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})
