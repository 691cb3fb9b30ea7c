"""What the embedded base model is told about its pictures: the text half of its pre-training set."""

import numpy as np

from diffmix.nano.data import COLORS, SUPERCLASS, Recipe

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
"""What the base model's captions call the classes. The data set calls them 0 to 9, which the base
model has never read.
"""

SETTINGS = {"china": "in china", "flower": "on a flower"}
"""How a caption names the background of a group."""

MENTIONED = 0.5
"""The probability with which a caption mentions each of size, color, position and background."""


def caption(recipe: Recipe, name_share: float, rng: np.random.Generator) -> str:
    """A random true caption of a picture, which gives the class's name with probability
    `name_share`.
    """
    across, down = recipe.shift
    size = "small" if recipe.size < 20 else "large" if recipe.size > 24 else ""
    position = (
        "left"
        if across < -2
        else "right"
        if across > 2
        else "top"
        if down < -2
        else "bottom"
        if down > 2
        else ""
    )
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


def vocabulary() -> list[str]:
    """Every word that a caption can hold."""
    phrases = [
        "a photo of a small large on the left right top bottom",
        SUPERCLASS,
        *COLORS,
        *NAMES,
        *SETTINGS.values(),
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})
