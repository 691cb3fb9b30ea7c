"""What a concept was made with, and whether that is what is wanted now."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from PIL import Image

from diffmix.config import PersonalizeConfig
from diffmix.images import decode

if TYPE_CHECKING:
    from diffmix.personalize.crops import Images

log = logging.getLogger(__name__)

_WITHOUT_EFFECT = ("concept", "checkpoint_every", "compile", "cuda_graph", "data_seed")
"""Options that the weights do not depend on, or that show elsewhere: the seed of the data in the
data's fingerprint.
"""
_ONE_IMAGE = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""Formats whose header has the size of the image that is decoded."""
_YOUNGER: dict[str, object] = {
    "resolution": None,
    "cached_crops": 0,
    "global_batch_size": None,
    "token_weight_decay": 0.0,
    "clip_tokens": True,
}
"""Options that older concepts do not name, with the value that they stand for there. With that
value an option is left out, so that an older concept keeps its identity.
"""


def concept_settings(personalize: PersonalizeConfig, all_square: bool) -> dict:
    """The options that a concept's weights depend on, as JSON values. Square images are neither cut
    nor squashed: with `all_square` the options for that are left out.
    """
    left_out = set(_WITHOUT_EFFECT)
    if all_square:
        left_out |= {"resize_mode", "cached_crops"}
    if personalize.resize_mode == "squash":
        left_out.add("cached_crops")
    if personalize.global_batch_size is not None:
        left_out.add("batch_size")
    settings = {}
    for name, value in asdict(personalize).items():
        younger = name in _YOUNGER and value == _YOUNGER[name]
        if name not in left_out and not younger:
            settings[name] = value
    return json.loads(json.dumps(settings))


def all_square(images: Images) -> bool:
    """Whether each image is square, so that there is nothing to crop. The first that is not ends
    the search.
    """
    sizes = (_size(images.image_bytes(index)) for index in range(len(images)))
    return all(width == height for width, height in sizes)


def _size(data: bytes) -> tuple[int, int]:
    """Width and height by the file's header, where its first image is the one that is decoded. A
    turn by its orientation keeps a square a square.
    """
    with contextlib.suppress(OSError), Image.open(io.BytesIO(data)) as image:
        if image.format in _ONE_IMAGE:
            return image.size
    return decode(data).size


def differences(had: dict, wanted: dict, where: str) -> list[str]:
    """What differs between the settings of the concept at `where` and the `wanted` ones, in words.

    A concept that does not say how its images were resized is older than `resize_mode`. They were
    squashed, and it is taken all the same: that is said.
    """
    before, now = {**_YOUNGER, **had}, {**_YOUNGER, **wanted}
    if now.get("resize_mode") == "shorter" and "resize_mode" not in before:
        log.warning(
            "The concept in %s is from before images were cropped: it was trained on squashed ones "
            "and is used as it is. Choose another --out for a concept of crops.",
            where,
        )
    before.setdefault("resize_mode", now.get("resize_mode"))
    return [
        f"{name} was {before.get(name)} and is {value} now"
        for name, value in now.items()
        if before.get(name) != value
    ]
