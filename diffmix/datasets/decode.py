"""Reading and decoding every image once, to find the broken ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from diffmix import images
from diffmix.buckets.remote_tree import read_file
from diffmix.datasets.raw import Found

_IN_FLIGHT = 64
_THREADS = 16  # files come from disks and buckets, which answer late

Decode = Callable[[Iterator[Found], int], Iterator[tuple[Found, bytes | str]]]
"""(images as they were found, most pixels) -> each image, in the same order, with its file's bytes,
or with the reason why it cannot be read.
"""


def in_threads(examples: Iterator[Found], max_pixels: int) -> Iterator[tuple[Found, bytes | str]]:
    """The usual `Decode`: threads of this process read and decode several files at once."""

    def check(found: Found) -> bytes | str:
        return checked(found.image, max_pixels)

    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(examples, _IN_FLIGHT)):
            yield from zip(batch, pool.map(check, batch), strict=True)


def checked(image: bytes | str | None, max_pixels: int) -> bytes | str:
    """An image file's bytes, given as such or as its path or URI, or the reason why it cannot be
    read.
    """
    try:
        data = read_file(image) if isinstance(image, str) else image or b""
        images.decode(data, max_pixels)
        return data
    except images.BadImage as error:
        return str(error)
    except OSError as error:
        return f"cannot be opened: {error.strerror or error}"
