"""The short tables that commands end with."""

from __future__ import annotations

import json
import sys
import time

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffmix.config import Config
from diffmix.report.headline import headline, percent
from engine.display.runs import RunLine
from engine.display.state import age


def print_summary(summary: dict, config: Config) -> None:
    """Accuracy, counts and rates of a finished run, and where its files are. With `run.display
    json`, the summary as a line of JSON.
    """
    if config.run.display == "json":
        print(json.dumps({"event": "summary", **summary}))
        return
    table = Table(show_header=False)
    for row in headline(summary):
        table.add_row(*row)
    _console().print(table)
    # Outside the table, which would cut long paths off.
    if "report" in summary:
        print(f"report: {config.out}/report.html")
    print(f"run folder: {config.out}")


def print_runs(runs: list[RunLine], folder: str) -> None:
    """What `diffmix ls` found."""
    if not runs:
        print(f"no runs below {folder}")
        return
    priced = any(run.usd is not None for run in runs)
    cost = ("GPU-h", "$") if priced else ("GPU-h",)
    names = ("run", "state", "with", "without", "mixes", *cost, "time", "ago")
    table = Table(*names, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.columns[0].overflow = "fold"  # the only column that a narrow terminal makes narrower
    for column in table.columns[1:]:
        column.no_wrap = True
    for column in table.columns[2:]:
        column.justify = "right"
    for run in runs:
        table.add_row(
            escape(run.name),
            f"[{_COLORS.get(run.state, 'cyan')}]{escape(run.state)}[/]",
            percent(run.accuracy) if run.accuracy is not None else "",
            percent(run.baseline) if run.baseline is not None else "",
            f"{run.stored}/{run.planned}" if run.planned else "",
            f"{run.gpu_hours:.2f}" if run.gpu_hours is not None else "",
            *([f"{run.usd:.2f}" if run.usd is not None else ""] if priced else []),
            age(run.seconds),
            age(time.time() - run.last),
        )
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    console.print(table)
    console.print(
        "with, without: test accuracy with and without mixes; GPU-h: GPU-hours; "
        f"{'$: cost of all nodes; ' if priced else ''}ago: last event",
        style="dim",
    )


_WIDE = 160
"""Columns where no terminal says how many there are."""
_COLORS = {"done": "green", "failed": "red", "dead": "red", "interrupted": "yellow"}
_COLORS |= {"waiting": "yellow"}


def print_forecast(forecast: dict) -> None:
    """What `diffmix plan` found."""
    table = Table(show_header=False)
    for name, value in forecast.items():
        if not isinstance(value, list):
            table.add_row(name, str(value))
    console = _console()
    # Outside the table, which would cut long lines, and as it is: names may look like markup.
    for line in forecast.get("data", []):
        print(line)
    console.print(table)
    if forecast.get("splits"):
        splits = Table(*forecast["splits"][0])
        for split in forecast["splits"]:
            splits.add_row(
                *(
                    f"{value:.2f}" if isinstance(value, float) else str(value)
                    for value in split.values()
                )
            )
        console.print(splits)


def _console() -> Console:
    """One that prints names as they are, brackets and colons too."""
    return Console(soft_wrap=True, markup=False, emoji=False)
