"""What fits in a device's memory: parts that are halved where it runs out, and how large the
decoder's parts are to begin with.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from diffmix.errors import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")

_USUAL_PIXELS = 8 * 512 * 512
_BYTES_PER_PIXEL = 2000
"""Of the VAE's decoder for each byte of its numbers: 8 GB for `_USUAL_PIXELS` in half precision."""
_SHARE = 0.5
"""Of the memory that is left beside the weights; the rest is for what the caller holds."""


class Parts:
    """Works through rows in parts that fit in memory. Owned by one mixer.

    Where a part does not fit it is halved, and later parts are not larger.
    """

    def __init__(self, what: str, advice: str, most: int | None = None):
        self.what, self.advice = what, advice
        """For the sentence that says that not even one row fits."""
        self.most = most
        """The most rows in a part; None: all that there are."""
        self.halved = 0
        """How often memory has run out."""

    def of(self, count: int, work: Callable[[slice], T]) -> Iterator[T]:
        """`work` on slices that add up to `count` rows, in order.

        Raises `UserError` where a single row does not fit.
        """
        start = 0
        while start < count:
            size = min(self.most or count, count - start)
            try:
                done = work(slice(start, start + size))
            except torch.OutOfMemoryError as error:
                text = str(error).partition("\n")[0]
            else:
                start += size
                yield done
                continue
            # Outside of `except`: the error's traceback holds the tensors that did not fit.
            self._halve(size, text)

    def _halve(self, size: int, text: str) -> None:
        release()
        if size == 1:
            raise UserError(f"{self.what} does not fit in memory ({text}); {self.advice}.")
        self.most, self.halved = size // 2, self.halved + 1
        log.warning("memory ran out at %d rows at once (%s); now %d", size, text, self.most)


@contextmanager
def fitting(what: str, advice: str) -> Iterator[None]:
    """Raises a `UserError` where memory runs out inside: `what` does not fit; `advice`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        text = str(error).partition("\n")[0]
        raise UserError(f"{what} does not fit in memory ({text}); {advice}.") from error


def release() -> None:
    """Give back what is not used, so that the device has it in one piece."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def decoded_at_once(side: int, dtype: torch.dtype, device: torch.device) -> int:
    """Images of `side` pixels that the VAE decodes in one part, one at least.

    On a GPU as many as half of the memory beside this process's tensors holds, and on all devices
    no more than are of use. It depends on the GPU's model and on what the mixer holds, and not on
    other processes.
    """
    left = None
    if device.type == "cuda":
        share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)
        left = torch.cuda.get_device_properties(device).total_memory * share
        left -= torch.cuda.memory_allocated(device)
    return parts_of_decoder(side, dtype.itemsize, left)


def parts_of_decoder(side: int, itemsize: int, left: float | None) -> int:
    """The same for numbers of `itemsize` bytes and `left` bytes of memory; None: as many as are of
    use.
    """
    pixels: float = _USUAL_PIXELS
    if left is not None:
        pixels = min(pixels, _SHARE * left / (_BYTES_PER_PIXEL * itemsize))
    return max(1, int(pixels // side**2))
