"""Vega, Vega-Lite and Vega-Embed as one script, which a page carries with it."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from functools import cache
from pathlib import Path


@cache
def script() -> str:
    """The script: 0.9 MB, which set `window.vegaEmbed`. BSD-3-Clause, by the Vega project.

    It comes out of the package vl-convert-python, which takes seconds to put it together: each user
    keeps a copy in the machine's temporary folder.
    """
    version = importlib.metadata.version("vl-convert-python")
    kept = Path(tempfile.gettempdir(), f"diffmix-cache-{os.getuid()}", f"vega-{version}.js")
    if not kept.exists():
        import vl_convert

        text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        new = kept.with_name(f"{kept.name}.{os.getpid()}")
        new.write_text(text, encoding="utf-8")
        new.replace(kept)
    return kept.read_text(encoding="utf-8")
