"""Which device a process computes on, and how many of the machine's cores it may use."""

from __future__ import annotations

import os


def inference_device() -> str:
    """`cuda` where this process sees a GPU, else `cpu`.

    A logical GPU of Ray's is only a number: a process that holds one and sees no CUDA device
    computes on the CPU.
    """
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def limit_threads(cpus: float) -> None:
    """Let torch use the CPUs that this process has reserved, and no more, at least one.

    Several actors share a machine, and torch would give each of them every core.
    """
    import torch

    torch.set_num_threads(max(1, min(int(cpus), os.cpu_count() or 1)))
