"""What benchmarks have in common: their options, what they write, and how they time."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from diffmix.versions import versions


def parser(description: str | None) -> argparse.ArgumentParser:
    """A benchmark's options: `--json`, and what it adds."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", metavar="PATH", help="write the figures to this file")
    return made


def machine() -> dict:
    """The processor, its cores, the memory in GB and the GPUs' names."""
    import torch

    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "system": platform.platform(terse=True),
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def write(path: str | None, figures: dict[str, float], **more: object) -> None:
    """Write `{"machine", "versions", "figures", **more}` to a JSON file. With `path` None, write
    nothing.
    """
    if path:
        kept = {"machine": machine(), "versions": versions(), "figures": figures, **more}
        replace_file(Path(path), json.dumps(kept, indent=2) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a text file that is whole at every moment."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, fp32 is fp32: a GPU rounds neither convolutions nor matrix products to TF32.

    torch lets convolutions do so by default. What is called fp32 in a figure runs in here.
    """
    import torch

    settings = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = False
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


def show(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Print a table. Numbers with a fraction are rounded to three digits."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row]
        table.add_row(*cells)
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # a file has no width of its own
    console.print(table)


def interleaved(ways: dict[str, Callable[[int], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way's `repeats` calls. The ways take turns, so that other work on the machine
    slows them down alike.

    A way is called with the number of the repeat. A first call, with -1, warms it up and does not
    count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-1, repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way(repeat)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median of the ratios of values that were measured side by side."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
