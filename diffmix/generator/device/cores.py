"""Threads that share a CPU's cores, one each."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def one_core_each(count: int) -> ThreadPoolExecutor:
    """Threads in which torch uses one core each.

    What a thread sets is also what torch gives to later threads, so it is set back.
    """
    all_there = threading.Barrier(count)

    def begin(_: int) -> None:
        # A thread takes the common number with its first question, even over one set before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        all_there.wait()

    threads = ThreadPoolExecutor(count, "unet")
    list(threads.map(begin, range(count)))
    torch.set_num_threads(count)
    return threads
