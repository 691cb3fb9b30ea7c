"""Seconds, memory and kernels of calls, on a GPU or a CPU."""

from __future__ import annotations

import gc
import re
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "convolution": r"conv|fprop|dgrad|wgrad|winograd",
    "matmul": r"gemm|matmul|nvjet|addmm|::mm\b|::bmm\b|linear",
    "norm": r"norm|RowwiseMoments",
    "layout and copy": r"nchw|nhwc|transpose|memcpy|memset|copy|::cat\b|CatArray|contiguous",
    "elementwise": r"elementwise|silu|gelu|geglu|::add|::mul|::div|reduce",
    "compiled": r"^triton",
}
"""Kind -> what the names of its kernels (on a CPU: operations) have. The first that fits counts,
but a kernel that torch.compile made is always `compiled`.
"""


def sync(device: str) -> None:
    """Wait until the GPU has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def taken(call: Callable[[], object], device: str) -> float:
    """Seconds of one call, with all that it starts on the GPU."""
    sync(device)
    start = time.perf_counter()
    call()
    sync(device)
    return time.perf_counter() - start


def median_seconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """The median over `repeats`, after two calls that warm up. Short calls are repeated within a
    measurement, so that it lasts 20 ms at least.
    """
    taken(call, device)
    inner = max(1, int(0.02 / max(taken(call, device), 1e-6)))

    def often() -> None:
        for _ in range(inner):
            call()

    return statistics.median(taken(often, device) / inner for _ in range(repeats))


def reset_peak(device: str) -> None:
    """Forget the peak that `peak_gb` reports, and give unused memory back."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb(device: str) -> float:
    """GB that tensors took at most since `reset_peak`; on a CPU what the process ever took."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class Kernel(NamedTuple):
    """One kernel that ran (on a CPU: one operation). Times are in seconds."""

    name: str
    start: float
    end: float
    own: float
    """Without those that it called."""


def kernels(call: Callable[[], object], device: str) -> list[Kernel]:
    """The kernels of one call."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        call()
        sync(device)
    found = []
    for event in profiled.events():
        on_gpu = event.device_type != torch.autograd.DeviceType.CPU
        if on_gpu != (device == "cuda") or getattr(event, "is_user_annotation", False):
            continue
        start, end = event.time_range.start / 1e6, event.time_range.end / 1e6
        own = end - start if on_gpu else event.self_cpu_time_total / 1e6
        found.append(Kernel(event.name, start, end, own))
    return found


def busy_seconds(ran: list[Kernel]) -> float:
    """Seconds in which at least one of the kernels ran."""
    total, until = 0.0, float("-inf")
    for _, start, end, _ in sorted(ran, key=lambda kernel: kernel.start):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def kind(name: str) -> str:
    """The kind of a kernel, by its name."""
    if name.startswith("triton"):
        return "compiled"
    fitting = (kind for kind, names in KINDS.items() if re.search(names, name, re.IGNORECASE))
    return next(fitting, "other")


def shares(ran: list[Kernel]) -> dict[str, float]:
    """Kind -> its share of the kernels' time, the largest first."""
    seconds: dict[str, float] = {}
    for kernel in ran:
        name = kind(kernel.name)
        seconds[name] = seconds.get(name, 0.0) + kernel.own
    total = sum(seconds.values()) or 1.0
    return {name: seconds[name] / total for name in _longest(seconds)}


def slowest(ran: list[Kernel], count: int = 8) -> str:
    """The kernels that took longest: milliseconds, calls and the names' beginnings."""
    seconds: dict[str, float] = {}
    for kernel in ran:
        seconds[kernel.name] = seconds.get(kernel.name, 0.0) + kernel.own
    calls = Counter(kernel.name for kernel in ran)
    return "; ".join(
        f"{seconds[name] * 1e3:.2f} ms in {calls[name]}: {name[:90]}"
        for name in _longest(seconds)[:count]
    )


def _longest(seconds: dict[str, float]) -> list[str]:
    return sorted(seconds, key=lambda name: -seconds[name])
