"""Reading many small things whose place takes its time to answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
K = TypeVar("K")

_READERS = 16


def read_ahead(read: Callable[[K], T], keys: Iterable[K]) -> Iterator[T]:
    """`read` of each key, in order. Threads read the next few meanwhile, because an object store
    takes tens of milliseconds to answer, for each part.
    """
    left = iter(keys)
    with ThreadPoolExecutor(_READERS) as threads:
        ahead = deque(threads.submit(read, key) for key in islice(left, 2 * _READERS))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(threads.submit(read, key) for key in islice(left, 1))
                yield result
        finally:
            for future in ahead:
                future.cancel()
