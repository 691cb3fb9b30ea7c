"""The card, its clocks, and how fast small kernels can be started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.gpu.section import Context, Figures
from benchmarks.gpu.timing import median_seconds

_QUERY = "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu"
_LAUNCHES = 1000


def describe(context: Context) -> Figures:
    """Memory, clocks idle and at work, microseconds of a launch alone and in a CUDA graph."""
    yield "cores", os.cpu_count() or 1
    yield "clocks idle", _clocks()
    yield "compiler", shutil.which("gcc") or shutil.which("clang") or "none: torch.compile fails"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    yield "Python.h", str(header) if header.exists() else "none: torch.compile fails"
    optional = ("deepspeed", "xformers", "triton", "ray", "bitsandbytes", "pynvml")
    yield "installed", ", ".join(name for name in optional if find_spec(name)) or "none"
    small = torch.ones(256, device=context.device)

    def launches() -> None:
        for _ in range(_LAUNCHES):
            small.mul_(1.0)

    seconds = median_seconds(launches, context.device, context.sizes.repeats)
    yield "launch_us", seconds / _LAUNCHES * 1e6
    if context.device != "cuda":
        return
    properties = torch.cuda.get_device_properties(0)
    yield "memory_gb", properties.total_memory / 1e9
    yield "multiprocessors", properties.multi_processor_count
    yield "compute capability", f"{properties.major}.{properties.minor}"
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launches()
    seconds = median_seconds(graph.replay, context.device, context.sizes.repeats)
    yield "launch_in_graph_us", seconds / _LAUNCHES * 1e6
    one = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    median_seconds(lambda: one @ one, context.device, 50)
    yield "clocks at work", _clocks()


def _clocks() -> str:
    """What nvidia-smi says of clocks, power and temperature."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"not known ({error})"
    values = done.stdout.strip().splitlines()[0].split(", ")
    return ", ".join(
        f"{name} {value}" for name, value in zip(_QUERY.split(","), values, strict=False)
    )
