"""The embedded data set: handwritten digits on photographs, composed from scikit-learn's samples.

An image is one 8x8 digit of `sklearn.datasets.load_digits`, enlarged, turned, colored and laid over
a crop of one of the two photographs of `sklearn.datasets.load_sample_images`. The four splits share
neither a digit nor a pixel of a photograph: `digit_indices` and `photo_columns` give those of each
split, for every seed. Only the composition depends on the seed.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image

Split = Literal["pretrain", "train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

CLASS_NAMES: list[str] = [str(digit) for digit in range(10)]
SUPERCLASS = "digit"
GROUPS: list[str] = ["china", "flower"]
"""The photographs that backgrounds are cut from."""

RESOLUTION = 32
"""Height and width of an image in pixels."""

MAJORITY_SHARE: dict[Split, float] = {"pretrain": 0.5, "train": 0.8, "val": 0.8, "test": 0.5}
"""Share of the images of class c whose background is `majority_group(c)`; exact up to rounding."""

IMAGES_PER_DIGIT: dict[Split, int] = {"pretrain": 1, "train": 4, "val": 4, "test": 4}
"""Number of compositions of each digit: the same handwriting in other colors and places, on other
backgrounds.
"""

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.00, 0.85, 0.85),
    "orange": (0.08, 0.90, 0.95),
    "yellow": (0.15, 0.80, 0.95),
    "green": (0.35, 0.75, 0.60),
    "cyan": (0.50, 0.70, 0.85),
    "blue": (0.62, 0.80, 0.75),
    "purple": (0.77, 0.60, 0.65),
    "pink": (0.90, 0.45, 0.95),
    "white": (0.00, 0.00, 0.95),
    "black": (0.00, 0.00, 0.08),
}
"""Name -> (hue, saturation, value), each in [0, 1]. Colors vary a little around these values."""

# The rest, 84 to 93 per class, is for pre-training.
_DIGITS_PER_CLASS: dict[Split, int] = {"train": 45, "val": 15, "test": 30}
_STRIPS: dict[Split, tuple[int, ...]] = {
    "pretrain": (0, 2, 4, 6, 8),
    "train": (1, 7),
    "val": (5,),
    "test": (3, 9),
}
_STRIP_WIDTH = 64
# A constant, because the base model is pre-trained once: it must not see the test digits of any
# seed.
_SPLIT_SEED = 2403
_CROP_SIDE = (20, 41)  # in pixels of the photograph; the second is exclusive
_MIN_CONTRAST = 0.4


class Example(NamedTuple):
    """One labeled image."""

    image_id: str
    image: bytes
    """A PNG file: RGB, 32x32."""
    label: int
    """Index into `CLASS_NAMES`."""
    group: str
    """One of `GROUPS`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides an image. `render` adds no randomness."""

    image_id: str
    digit: int
    """Row of `load_digits`."""
    label: int
    group: str
    box: tuple[int, int, int, int]
    """The crop of the group's photograph: left, top, right and bottom in pixels. The last two are
    exclusive.
    """
    mirrored: bool
    """Whether the crop is mirrored. The digit never is."""
    color: str
    rgb: tuple[float, float, float]
    """The digit's color, each channel in [0, 1]."""
    size: float
    """Side of the enlarged digit in pixels."""
    angle: float
    """Counter-clockwise rotation in degrees."""
    slant: float
    """Horizontal shear."""
    shift: tuple[float, float]
    """Offset of the digit's center from the image's, right and down, in pixels."""
    opacity: float
    """Of the digit's ink, in [0, 1]."""


def majority_group(label: int) -> str:
    """The background of most training images of a class."""
    return GROUPS[label % len(GROUPS)]


@cache
def _digits() -> tuple[Float32[np.ndarray, "digits 8 8"], Int[np.ndarray, " digits"]]:
    """Ink in [0, 1], and labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16.0).astype(np.float32), digits.target


@cache
def _photo(group: str) -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(f"{group}.jpg"))


@cache
def digit_indices(split: Split) -> tuple[int, ...]:
    """The rows of `load_digits` that belong to a split, stratified by class.

    Splits share no row, and rows are the same for every seed.
    """
    _, labels = _digits()
    rng = np.random.default_rng(_SPLIT_SEED)
    owned: list[int] = []
    for label in range(len(CLASS_NAMES)):
        rows = rng.permutation(np.flatnonzero(labels == label)).tolist()
        for name, count in _DIGITS_PER_CLASS.items():
            taken, rows = rows[:count], rows[count:]
            owned += taken if name == split else []
        owned += rows if split == "pretrain" else []
    return tuple(owned)


def photo_columns(split: Split) -> list[tuple[int, int]]:
    """The columns `[start, stop)` of both photographs that belong to a split.

    Splits share no column.
    """
    return [(strip * _STRIP_WIDTH, (strip + 1) * _STRIP_WIDTH) for strip in _STRIPS[split]]


def _luma(rgb: Float[np.ndarray, " 3"]) -> float:
    return float(rgb @ np.array([0.299, 0.587, 0.114]))


def draw_recipe(
    image_id: str, split: Split, digit: int, group: str, rng: np.random.Generator
) -> Recipe:
    """A random composition of one digit on a background of `group`.

    The background comes from the columns that belong to `split`. `digit` is a row of `load_digits`.
    """
    photo = _photo(group)
    start, stop = photo_columns(split)[rng.integers(len(_STRIPS[split]))]
    side = int(rng.integers(*_CROP_SIDE))
    left = int(rng.integers(start, stop - side + 1))
    top = int(rng.integers(0, photo.height - side + 1))
    box = (left, top, left + side, top + side)
    background = _luma(np.asarray(photo.crop(box), dtype=np.float64).mean(axis=(0, 1)) / 255)
    while True:
        color = list(COLORS)[rng.integers(len(COLORS))]
        hsv = np.clip(np.array(COLORS[color]) + rng.uniform(-1, 1, 3) * (0.025, 0.05, 0.08), 0, 1)
        rgb = colorsys.hsv_to_rgb(*hsv.tolist())
        if abs(_luma(np.array(rgb)) - background) > _MIN_CONTRAST:
            break
    size = float(rng.uniform(20, 28))
    room = (RESOLUTION - size) / 2
    return Recipe(
        image_id=image_id,
        digit=digit,
        label=int(_digits()[1][digit]),
        group=group,
        box=box,
        mirrored=bool(rng.integers(2)),
        color=color,
        rgb=rgb,
        size=size,
        angle=float(rng.uniform(-10, 10)),
        slant=float(rng.uniform(-0.1, 0.1)),
        shift=(float(rng.uniform(-room, room)), float(rng.uniform(-room, room))),
        opacity=float(rng.uniform(0.85, 1.0)),
    )


def render(recipe: Recipe) -> UInt8[np.ndarray, "32 32 3"]:
    """The image of a recipe."""
    crop = _photo(recipe.group).crop(recipe.box)
    crop = crop.resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR)
    background = np.asarray(crop, dtype=np.float32)[:, :: -1 if recipe.mirrored else 1]
    alpha = recipe.opacity * ink(recipe)[:, :, None]
    image = background * (1 - alpha) + 255 * np.array(recipe.rgb, dtype=np.float32) * alpha
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def ink(recipe: Recipe) -> Float32[np.ndarray, "32 32"]:
    """The share of each pixel that the digit covers, in [0, 1]."""
    margin = 2  # some digits touch the border, and interpolation needs room around them
    digit = Image.fromarray(np.pad(_digits()[0][recipe.digit], margin))
    turn, per_pixel = np.deg2rad(recipe.angle), 8 / recipe.size
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # An offset in the image times this matrix is an offset in the digit.
    to_digit = per_pixel * np.array([[1, recipe.slant], [0, 1]]) @ rotation
    origin = 4 + margin - to_digit @ (RESOLUTION / 2 + np.array(recipe.shift))
    affine = (*to_digit[0], origin[0], *to_digit[1], origin[1])
    ink = digit.transform(
        (RESOLUTION, RESOLUTION), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    return np.clip((np.asarray(ink) - 0.15) / 0.5, 0, 1)


def recipes(split: Split, seed: int = 0) -> Iterator[Recipe]:
    """`IMAGES_PER_DIGIT[split]` recipes for each digit of a split, shuffled.

    Class c has the background `majority_group(c)` in `MAJORITY_SHARE[split]` of its images.
    """
    rows = np.repeat(digit_indices(split), IMAGES_PER_DIGIT[split])
    labels = _digits()[1][rows]
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    in_majority = np.zeros(len(rows), dtype=bool)
    for label in range(len(CLASS_NAMES)):
        members = rng.permutation(np.flatnonzero(labels == label))
        in_majority[members[: round(MAJORITY_SHARE[split] * len(members))]] = True
    for index, place in enumerate(rng.permutation(len(rows)).tolist()):
        group = GROUPS[(labels[place] + (not in_majority[place])) % len(GROUPS)]
        yield draw_recipe(f"{split}/{index:04d}", split, int(rows[place]), group, rng)


def examples(split: Split, seed: int = 0) -> Iterator[Example]:
    """The labeled images of a split: the same bytes for the same seed."""
    for recipe in recipes(split, seed):
        file = io.BytesIO()
        Image.fromarray(render(recipe)).save(file, format="png")
        yield Example(recipe.image_id, file.getvalue(), recipe.label, recipe.group)
