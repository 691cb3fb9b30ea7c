"""The report as one HTML page that needs nothing beside it: no scripts, no other files, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffmix.report.headline import headline, picked_on_test
from diffmix.report.plots import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


class Plot(NamedTuple):
    """A figure of the report with its heading and a sentence on how to read it."""

    title: str
    text: str
    figure: Figure


def render_report(
    title: str,
    summary: dict,
    config: str,
    plots: Sequence[Plot] = (),
    sheet: Image | None = None,
    sheet_text: str = "",
) -> str:
    """The page: headline figures of `summary` (as `summary.json` has them), the contact sheet, the
    plots, the configuration.

    `config` is shown as it is (YAML); `sheet_text` says in words what `sheet` shows.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(
        Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        figures=headline(summary),
        picked_on_test=picked_on_test(summary),
        sheet=data_uri("image/png", png(sheet)) if sheet else None,
        sheet_width=sheet.width if sheet else 0,
        sheet_text=sheet_text,
        plots=[
            (plot.title, plot.text, data_uri("image/svg+xml", svg(plot.figure))) for plot in plots
        ],
        versions=[
            (name, version) for name, version in summary.get("versions", {}).items() if version
        ],
        config=config,
    )


def png(image: Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """The bytes of a file of MIME type `kind` as a URI that can stand in a page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
