"""Reading and decoding every image once, to find the broken ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from diffmix import images
from diffmix.datasets.duplicates import Digests, digests_of
from diffmix.datasets.raw import Found
from diffmix.files.remote_tree import read_file

_IN_FLIGHT = 64
_THREADS = 16  # files come from disks and buckets, which answer late


class Checked(NamedTuple):
    """An image file that can be read."""

    data: bytes
    digests: Digests
    """By which duplicates are found."""
    pages: int
    """Pages or frames in the file."""


Decode = Callable[[Iterator[Found], int], Iterator[tuple[Found, Checked | str]]]
"""(images as they were found, most pixels) -> each image, in the same order, as it was read, or
with the reason why it cannot be.
"""


def in_threads(examples: Iterator[Found], max_pixels: int) -> Iterator[tuple[Found, Checked | str]]:
    """The usual `Decode`: threads of this process read and decode several files at once."""

    def check(found: Found) -> Checked | str:
        return checked(found.image, max_pixels)

    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(examples, _IN_FLIGHT)):
            yield from zip(batch, pool.map(check, batch), strict=True)


def checked(image: bytes | str | None, max_pixels: int) -> Checked | str:
    """An image file, given as its bytes, path or URI, or the reason why it cannot be read."""
    try:
        data = read_file(image) if isinstance(image, str) else image or b""
        digests = digests_of(data, images.decode(data, max_pixels))
        return Checked(data, digests, _pages(data))
    except images.BadImage as error:
        return str(error)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        return f"cannot be opened: {getattr(error, 'strerror', None) or error}"


def _pages(data: bytes) -> int:
    """How many pages or frames a readable file has, as far as that can be told."""
    if images.kind(data[:64]) in ("JPEG", "BMP"):
        return 1
    try:
        return images.pages(data)
    except images.BadImage:  # a later page is broken
        return 2
