"""Vega, Vega-Lite and Vega-Embed as one script, which a page carries with it, and charts as images
for readers that run no scripts.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

NOT_IN_UTF8 = re.compile("[\ud800-\udfff]")
MOST_BYTES = 200_000
"""Of a chart's image: larger ones, such as the confusions of 200 classes, are left out."""
_WIDTH = 640  # pixels


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


_DRAW = """
import json, sys, vl_convert
specs = json.load(sys.stdin)
json.dump({key: vl_convert.vegalite_to_svg(spec) for key, spec in specs.items()}, sys.stdout)
"""


def stills(specs: dict[str, dict]) -> dict[str, bytes]:
    """Key -> Vega-Lite specification, as key -> SVG image, whose text is text. Images of more than
    `MOST_BYTES` are left out. All are where they cannot be drawn, which is logged.

    A new process draws them: the package aborts its process on some texts, and numbers the parts of
    an image by what it has drawn before.
    """
    sized = {key: {**spec, "width": _WIDTH} for key, spec in specs.items()}
    text = NOT_IN_UTF8.sub("\ufffd", json.dumps(sized, ensure_ascii=False))
    command = [sys.executable, "-c", _DRAW]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        log.warning(
            "The report shows its %d charts with JavaScript alone: their images could not be drawn "
            "(vl-convert ended with %d).",
            len(specs),
            done.returncode,
        )
        return {}
    drawn = {key: svg.encode() for key, svg in json.loads(done.stdout).items()}
    return {key: image for key, image in drawn.items() if len(image) <= MOST_BYTES}
