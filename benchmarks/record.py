"""Where a measurement was made, and its JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path

_PACKAGES = ("torch", "diffusers", "transformers", "peft")


def machine() -> dict:
    """What it runs on: `name` ("2-core CPU" or the GPU's name), CPU cores, main memory and the GPU."""
    import psutil
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cores = len(os.sched_getaffinity(0))
    return {"name": gpu or f"{cores}-core CPU", "cores": cores, "memory_gb": round(psutil.virtual_memory().total / 1e9), "gpu": gpu}


def write(path: str | Path, figures: dict, **more: object) -> None:
    """Write {"machine", "versions", "figures", ...} as JSON."""
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}
    record = {"machine": machine(), "versions": versions, "figures": figures, **more}
    Path(path).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
