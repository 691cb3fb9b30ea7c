"""The device that a process computes on, and the number of cores that it uses."""

from __future__ import annotations

import os
from glob import glob


def inference_device() -> str:
    """`cuda` if this process sees a GPU, else `cpu`.

    A logical GPU of Ray is only a number. A process that holds one but sees no CUDA device computes
    on the CPU.
    """
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def limit_threads(cpus: float) -> None:
    """Let torch use as many threads as this process has reserved `cpus`, at least one.

    Several actors share a machine, and by default torch uses every core in each of them.
    """
    import torch

    torch.set_num_threads(max(1, min(int(cpus), os.cpu_count() or 1)))


def take_share(cpus: float, gpus: float) -> None:
    """Keep this process to what it has reserved: threads for `cpus`, no GPU where `gpus` is 0, and
    of a part of a GPU that part of its memory. Call it before anything uses CUDA.

    Ray hides no GPU from a process that has reserved none: it would use GPU 0, which is another's.
    """
    import torch

    limit_threads(cpus)
    if gpus <= 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpus)


def loader_workers(asked: int | None) -> int:
    """How many processes decode images for a train worker: `train.loader_workers`, or for None what
    its option says.
    """
    import torch

    if asked is not None:
        return asked
    if not torch.cuda.is_available():
        return 2
    mine = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    # Ray shows a worker its own GPUs alone.
    gpus = max(1, len(glob("/dev/nvidia[0-9]*")))
    return max(2, min(16, len(mine) // gpus - 1))
