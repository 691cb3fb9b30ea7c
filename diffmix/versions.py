"""The versions that a result was made with."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = (
    "ray",
    "torch",
    "diffusers",
    "deepspeed",
    "timm",
    "peft",
    "transformers",
    "pyarrow",
    "xformers",
)


def versions() -> dict[str, str | None]:
    """Python's and the main packages' versions; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
