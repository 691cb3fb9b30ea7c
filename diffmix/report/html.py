"""The report as one self-contained HTML page: no scripts, no other files, no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffmix import images
from diffmix.report.headline import headline, picked_on_test
from diffmix.report.plots import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


class Plot(NamedTuple):
    """A figure of the report."""

    title: str
    text: str
    """How to read the figure."""
    figure: Figure


def render_report(
    title: str,
    summary: dict,
    config: str,
    plots: Sequence[Plot] = (),
    sheet: Image | None = None,
    sheet_text: str = "",
) -> str:
    """The page: headline figures, the contact sheet, the plots, the configuration, the versions.

    `summary` is the content of `summary.json`. `config` is shown as it is (YAML). `sheet_text` is
    the alternative text of `sheet`.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    shown = []
    for plot in plots:
        shown.append((plot.title, plot.text, data_uri("image/svg+xml", svg(plot.figure))))
    versions = summary.get("versions", {})
    return environment.from_string(source).render(
        title=title,
        figures=headline(summary),
        picked_on_test=picked_on_test(summary),
        sheet=data_uri("image/png", png(sheet)) if sheet else None,
        sheet_width=sheet.width if sheet else 0,
        sheet_text=sheet_text,
        plots=shown,
        versions=[(name, version) for name, version in versions.items() if version],
        config=config,
    )


def png(image: Image) -> bytes:
    """The bytes of a PNG file of the image."""
    return images.encode(image, "png", 100)


def data_uri(kind: str, data: bytes) -> str:
    """A file of MIME type `kind` as a URI that a page can embed."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
