"""Trackers that are not installed with this project."""

from __future__ import annotations

import importlib
from typing import Any

from diffmix.errors import UserError


def required(module: str, package: str) -> Any:
    """The module. `UserError` where it is not installed, with the package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"--run.listeners names {module}, which is not installed; pip install {package}, or "
            "leave it out."
        ) from error
