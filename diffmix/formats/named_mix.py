"""A mix on its way from one layout to another, and its description as plain JSON values."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffmix.errors import UserError

_Item = TypeVar("_Item")
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


class NamedMix(NamedTuple):
    """A mix whose classes are named."""

    mix_id: int
    source_id: str
    """`image_id` of the real image; empty where it is not known or there is none."""
    source: str
    """Name of the source class."""
    target: str
    """Name of the target class."""
    strength: float
    """In (0, 1]."""
    seed: int | None
    """None where it is not known."""
    score: float | None
    """The gate's; None without one."""
    accepted: bool
    load: Callable[[], bytes]
    """Gives the image file's bytes; called only for mixes that are wanted."""


def shortest(strength: float) -> float:
    """The number with the fewest digits that is the same float32: 0.7 and not 0.699999988079071."""
    return float(str(np.float32(strength)))


def described(mix: NamedMix) -> dict:
    """All but the image, as JSON values."""
    fields = mix._asdict()
    del fields["load"]
    return fields | {"strength": shortest(mix.strength)}


def from_description(fields: dict, load: Callable[[], bytes], where: str) -> NamedMix:
    """The mix that `described` described; other fields are ignored. Raises `UserError` for one that
    lacks something.
    """
    try:
        score, seed = fields.get("score"), fields.get("seed")
        mix = NamedMix(
            int(fields["mix_id"]),
            str(fields.get("source_id") or ""),
            str(fields["source"]),
            str(fields["target"]),
            float(fields["strength"]),
            None if seed is None else int(seed),
            None if score is None else float(score),
            bool(fields.get("accepted", True)),
            load,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} does not describe a mix ({type(error).__name__}: {error}); export the mixes again."
        ) from error
    if not 0 < mix.strength <= 1:
        raise UserError(
            f"{where} has the strength {mix.strength:g}, but it must be above 0 and at most 1."
        )
    return mix


def suffix(image: bytes, where: str) -> str:
    """The usual ending of an image file's name, without the dot, from its content. Raises
    `UserError` for no image.
    """
    try:
        kind = str(Image.open(io.BytesIO(image)).format)
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(
            f"The image of {where} cannot be read; delete its part and make it again."
        ) from error
    return _SUFFIXES.get(kind, kind.lower())


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
