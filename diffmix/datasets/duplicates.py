"""Images that occur more than once: by their files' bytes, or by their pixels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from PIL import Image

_ROWS = 8


class Digests(NamedTuple):
    """What tells an image from most others, and costs little."""

    file: bytes
    """Of the file's bytes."""
    rows: bytes
    """Of the size and of some rows of RGB pixels. Images with the same pixels have the same."""


class Seen(NamedTuple):
    """An image, and how it is compared with others."""

    image_id: str
    digests: Digests
    class_name: str
    pixels: Callable[[], bytes]
    """A digest of all pixels, which decodes the image again."""


class Twin(NamedTuple):
    """An image of one set that another set has too."""

    image_id: str
    other: str
    """Its id in the other set."""
    same_file: bool
    """Whether the bytes of the files are the same; else the pixels alone are."""


def digests_of(data: bytes, image: Image.Image) -> Digests:
    """The digests of a file and of the RGB image in it."""
    digest = hashlib.blake2b(f"{image.width} {image.height} ".encode(), digest_size=16)
    for row in range(0, image.height, max(image.height // _ROWS, 1)):
        digest.update(image.crop((0, row, image.width, row + 1)).tobytes())
    return Digests(hashlib.blake2b(data, digest_size=16).digest(), digest.digest())


def digest_of_pixels(image: Image.Image) -> bytes:
    """A digest of all pixels of an RGB image. Takes about as long as decoding it did."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def twins(images: Iterable[Seen], others: Iterable[Seen]) -> list[Twin]:
    """The images that are among the others too, with the first such."""
    known = _Known()
    for other in others:
        known.add(other)
    found = []
    for image in images:
        other_or_none = known.find(image)
        if other_or_none is not None:
            found.append(_twin(image, other_or_none))
    return found


def contradictions(images: Iterable[Seen]) -> list[Twin]:
    """The images whose pixels occur in another class before."""
    known = _Known()
    found = []
    for image in images:
        before = known.find(image)
        if before is None:
            known.add(image)
        elif before.class_name != image.class_name:
            found.append(_twin(image, before))
    return found


def said(found: list[Twin], what: str) -> str:
    """A sentence about twins, with their number and one of them."""
    files = sum(twin.same_file for twin in found)
    return (
        f"{what}: {len(found)} ({files} with the same bytes, {len(found) - files} with the same "
        f"pixels in another file), such as {found[0].image_id!r} and {found[0].other!r}"
    )


def _twin(image: Seen, other: Seen) -> Twin:
    return Twin(image.image_id, other.image_id, image.digests.file == other.digests.file)


class _Known:
    """Images by what they look like. All pixels are compared only where some rows are the same."""

    def __init__(self) -> None:
        self._by_file: dict[bytes, Seen] = {}
        self._by_rows: dict[bytes, list[Seen]] = defaultdict(list)
        self._by_pixels: dict[bytes, dict[bytes, Seen]] = {}

    def add(self, image: Seen) -> None:
        if image.digests.file in self._by_file:
            return
        self._by_file[image.digests.file] = image
        self._by_rows[image.digests.rows].append(image)
        self._by_pixels.pop(image.digests.rows, None)

    def find(self, image: Seen) -> Seen | None:
        rows = image.digests.rows
        if image.digests.file in self._by_file or rows not in self._by_rows:
            return self._by_file.get(image.digests.file)
        if rows not in self._by_pixels:
            alike = reversed(self._by_rows[rows])
            self._by_pixels[rows] = {other.pixels(): other for other in alike}
        return self._by_pixels[rows].get(image.pixels())
