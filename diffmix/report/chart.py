"""A chart of a page: a Vega-Lite specification, the words for it, and its figures as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

ARMS = {"baseline": ("without mixes", "#8c8c8c"), "train": ("with mixes", "#3b82c4")}
"""Kind of training event -> its name and color in every chart; the colors serve light and dark."""
MIX_COLOR, PERSONALIZE_COLOR, WAIT_COLOR = "#d98a1f", "#8b6bb8", "#c75450"

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"


@dataclass(frozen=True)
class Table:
    """Figures by row. The page shows them, and has them as a CSV file."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def csv(self) -> str:
        """The text of the CSV file. A cell that a spreadsheet would take for a formula gets an
        apostrophe in front.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([_plain(name) for name in self.columns])
        writer.writerows([_plain(cell) for cell in row] for row in self.rows)
        return text.getvalue()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart of a page."""

    key: str
    """Its id on the page, and the name of its CSV file."""
    title: str
    text: str
    """How to read it."""
    spec: dict
    """Vega-Lite, without the keys that all charts share."""
    table: Table
    described: str = ""
    """What it shows, for those who do not see it."""

    def vega(self) -> dict:
        """The whole specification. Text in it is data, never code."""
        return {
            "$schema": _SCHEMA,
            "width": "container",
            "autosize": {"type": "fit-x", "contains": "padding"},
            "description": self.described or self.title,
            **_with_ticks(self.spec),
        }


@dataclass(frozen=True)
class ColorScale:
    """Names and their colors, as the `scale` of an encoding."""

    colors: dict[str, str] = field(default_factory=dict)

    def encoding(self, name: str, legend: bool = True) -> dict:
        """The color channel of the field `name`."""
        return {
            "field": name,
            "type": "nominal",
            "title": None,
            "scale": {"domain": list(self.colors), "range": list(self.colors.values())},
            "legend": {"orient": "top"} if legend else None,
        }


_PIXELS_OF_A_TICK = 80


def _with_ticks(spec: dict) -> dict:
    """A specification, or a layer of one, whose horizontal axis has as many numbers as fit."""
    found = dict(spec)
    if "layer" in spec:
        found["layer"] = [_with_ticks(layer) for layer in spec["layer"]]
    x = spec.get("encoding", {}).get("x", {})
    if x.get("type") == "quantitative":
        ticks = {"tickCount": {"expr": f"ceil(width / {_PIXELS_OF_A_TICK})"}}
        found["encoding"] = {**spec["encoding"], "x": {**x, "axis": {**ticks, **x.get("axis", {})}}}
    return found


def _plain(cell: object) -> object:
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return cell
