"""The short tables that commands end with."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from diffmix.config import Config
from diffmix.report.headline import headline


def print_summary(summary: dict, config: Config) -> None:
    """Accuracy, counts and rates of a finished run, and where its files are."""
    table = Table(show_header=False)
    for row in headline(summary):
        table.add_row(*row)
    _console().print(table)
    # Outside the table, which would cut long paths off.
    if "report" in summary:
        print(f"report: {summary['report']}")
    print(f"run folder: {config.out}")


def print_forecast(forecast: dict) -> None:
    """What `diffmix plan` found."""
    # Outside the table, which would cut long lines, and as it is: names may look like markup.
    for line in forecast.get("data", []):
        print(line)
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
