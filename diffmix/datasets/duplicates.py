"""Images that occur more than once: by their files' bytes, or by their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image


class Digests(NamedTuple):
    """What tells an image from others."""

    file: bytes
    """Of the file's bytes."""
    pixels: bytes
    """Of its size and its RGB pixels, as `images.decode` gives them."""


class Seen(NamedTuple):
    """An image and its digests."""

    image_id: str
    digests: Digests
    class_name: str


class Twin(NamedTuple):
    """An image of one set that another set has too."""

    image_id: str
    other: str
    """Its id in the other set."""
    same_file: bool
    """Whether the bytes of the files are the same; else the pixels alone are."""


def digests_of(data: bytes, image: Image.Image) -> Digests:
    """The digests of a file and of the image in it."""
    size = f"{image.width} {image.height} ".encode()
    return Digests(_digest(data), _digest(size + image.tobytes()))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def twins(images: Iterable[Seen], others: Iterable[Seen]) -> list[Twin]:
    """The images that are among the others too, with the first such."""
    by_file: dict[bytes, str] = {}
    by_pixels: dict[bytes, str] = {}
    for other in others:
        by_file.setdefault(other.digests.file, other.image_id)
        by_pixels.setdefault(other.digests.pixels, other.image_id)
    found = []
    for image in images:
        other_id = by_file.get(image.digests.file)
        same_file = other_id is not None
        other_id = other_id or by_pixels.get(image.digests.pixels)
        if other_id is not None:
            found.append(Twin(image.image_id, other_id, same_file))
    return found


def contradictions(images: Iterable[Seen]) -> list[Twin]:
    """The images whose pixels occur in another class before."""
    first: dict[bytes, Seen] = {}
    found = []
    for image in images:
        before = first.setdefault(image.digests.pixels, image)
        if before.class_name != image.class_name:
            same_file = before.digests.file == image.digests.file
            found.append(Twin(image.image_id, before.image_id, same_file))
    return found


def said(found: list[Twin], what: str) -> str:
    """A sentence about twins, with their number and one of them."""
    files = sum(twin.same_file for twin in found)
    return (
        f"{what}: {len(found)} ({files} with the same bytes, {len(found) - files} with the same "
        f"pixels in another file), such as {found[0].image_id!r} and {found[0].other!r}"
    )
