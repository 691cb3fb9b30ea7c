"""Versions of Python and the main packages, kept with every result."""

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
    """Name -> version of Python and the main packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
