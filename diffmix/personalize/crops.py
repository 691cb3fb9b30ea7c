"""The square part of a photograph that a training step sees, as the paper's code cuts it: the
shorter side is resized, and a random square of the longer side is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from diffmix.generator.base_model import to_tensor
from diffmix.images import decode

_STREAM = 0x63726F7073  # keeps these streams apart from those of the steps under the same seed


@runtime_checkable
class Images(Protocol):
    """Image files by number, such as a `RealSet`."""

    def __len__(self) -> int: ...

    def image_bytes(self, index: int) -> bytes: ...


class View(NamedTuple):
    """What one sample sees of the images."""

    image: int
    """The image's number."""
    flipped: bool
    """Whether it is mirrored after the crop."""
    place: float
    """Where along the longer side the crop is, from 0 to below 1; in a cache of several crops also
    which of them it is.
    """


def pixels_of(
    images: Images, view: View, side: int, cropped: bool
) -> Float32[Tensor, "3 side side"]:
    """The pixels of a view in [-1, 1]. Without `cropped` both sides are resized to `side`."""
    image = decode(images.image_bytes(view.image))
    pixels = to_tensor(crop(image, side, view.place) if cropped else image, side)
    return pixels.flip(-1) if view.flipped else pixels


def crop(image: Image.Image, side: int, place: float) -> Image.Image:
    """The image with its shorter side resized to `side` pixels by PIL's bilinear filter, cut to a
    square at `place` along its longer side.

    The longer side is rounded down, as torchvision's `Resize` does. Over uniform places each of the
    `longer - side + 1` offsets is equally likely, as with torchvision's `RandomCrop`.
    """
    width, height = image.size
    if width <= height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (int(place * (length - side + 1)) for length in size)
    return image.crop((left, top, left + side, top + side))


def cached_places(index: int, count: int, seed: int) -> Sequence[float]:
    """The places of an image's cached crops: one random place in each of `count` equal parts of the
    range, so that a crop drawn among them is at a uniform place.
    """
    counter = [0, 0, 0, index]
    rng = np.random.Generator(np.random.Philox(key=[seed, _STREAM], counter=counter))
    return ((np.arange(count) + rng.random(count)) / count).tolist()
