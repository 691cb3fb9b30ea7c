"""A report as one self-contained HTML page: it opens offline and asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffmix import images
from diffmix.report.chart import Chart, Table
from diffmix.report.data_uri import data_uri
from diffmix.report.gallery import Gallery, thumbnail
from diffmix.report.headline import headline, picked_on_test
from diffmix.report.vega import NOT_IN_UTF8, script, stills

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_ROWS = 200
"""Of a table on the page; its CSV file has all of them."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a table."""

    key: str
    """Its id on the page, and the name of its CSV file."""
    title: str
    text: str
    table: Table


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The same mixes of several runs, side by side."""

    text: str
    """Which ones."""
    columns: Sequence[str]
    """The first is the source image's."""
    rows: Sequence[tuple[str, Sequence[bytes | None]]]
    """What the mix is, and an encoded file for each column; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page shows, from top to bottom. Parts without content are left out."""

    title: str
    summary: dict
    """The content of `summary.json`."""
    class_names: Sequence[str] = ()
    """As the page is to name them, by label."""
    notes: Sequence[str] = ()
    """Sentences below the figures."""
    charts: Sequence[Chart] = ()
    gallery: Gallery | None = None
    beside: Beside | None = None
    """The same mixes of several runs."""
    sections: Sequence[Section] = ()
    config: str = ""
    """Shown as it is (YAML)."""


def render_report(report: Report) -> str:
    """The page. All text in it is text, whatever it looks like."""
    import jinja2

    here = Path(__file__).parent
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(here),
    )
    charts = report.charts
    specs = {chart.key: chart.vega() for chart in charts}
    drawn = stills(specs) if specs else {}
    data = {
        "charts": specs,
        "classes": list(report.class_names),
        "gallery": report.gallery.data() if report.gallery else None,
    }
    versions = report.summary.get("versions", {})
    page = environment.get_template("report.html").render(
        title=report.title,
        figures=headline(report.summary),
        picked_on_test=picked_on_test(report.summary),
        notes=report.notes,
        charts=charts,
        stills={key: data_uri("image/svg+xml", image) for key, image in drawn.items()},
        gallery=report.gallery if report.gallery and report.gallery.mixes else None,
        sections=report.sections,
        beside=report.beside,
        thumbnail=lambda file: thumbnail(file, 192),
        versions=[(name, version) for name, version in versions.items() if version],
        config=report.config,
        csv_uri=lambda table: data_uri("text/csv", table.csv().encode(errors="replace")),
        most_rows=MOST_ROWS,
        data=_script_json(data),
        vega=_inline(script()) if charts else "",
        style=(here / "report.css").read_text(encoding="utf-8"),
        code=(here / "report.js").read_text(encoding="utf-8"),
    )
    return NOT_IN_UTF8.sub("\ufffd", page)


def _script_json(value: object) -> str:
    """JSON that can stand in a `<script>`: no text in it can end that."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _inline(source: str) -> str:
    """JavaScript that can stand in a `<script>`: its strings may name tags."""
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def png(image: Image) -> bytes:
    """The bytes of a PNG file of the image."""
    return images.encode(image, "png", 100)
