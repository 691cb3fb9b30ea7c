"""The short tables that commands end with."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from diffmix.config import Config


def print_summary(summary: dict, config: Config) -> None:
    """Accuracy, counts and rates of a finished run."""
    rows: list[tuple[str, str]] = []
    accuracy, baseline = summary.get("accuracy", {}), summary.get("baseline", {})
    if "top1" in baseline:
        rows.append(("accuracy without mixes", _percent(baseline["top1"])))
    if "top1" in accuracy:
        rows.append(("accuracy with mixes" if summary["plan"]["planned"] else "accuracy", _percent(accuracy["top1"])))
    if "worst_group" in accuracy:
        without = f" (without mixes {_percent(baseline['worst_group'])})" if "worst_group" in baseline else ""
        rows.append(("accuracy in the worst group", _percent(accuracy["worst_group"]) + without))
    if summary["plan"]["planned"]:
        plan, mixer = summary["plan"], summary["mixer"]
        rejected = f", {plan['rejected']} rejected" if plan["rejected"] else ""
        rows.append(("mixes made", f"{plan['stored']} of {plan['planned']} planned{rejected}"))
        rows.append(("mixes per second", f"{mixer['images_per_second']:.1f}"))
        if "oracle_share" in mixer:
            rows.append(("mixes that show their class (oracle)", _percent(mixer["oracle_share"])))
        rows.append(("time in which both phases ran", _percent(summary["overlap"]["concurrent_fraction"])))
    seconds = summary["seconds"]
    rows.append(("seconds", ", ".join(f"{name} {value:.0f}" for name, value in seconds.items() if value)))
    if "report" in summary:
        rows.append(("pictures", summary["report"]))
    rows.append(("run folder", config.out))
    table = Table(show_header=False)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def print_forecast(forecast: dict) -> None:
    """What `diffmix plan` found."""
    table = Table(show_header=False)
    for name, value in forecast.items():
        if not isinstance(value, list):
            table.add_row(name, str(value))
    console = Console(soft_wrap=True)
    console.print(table)
    if forecast.get("splits"):
        splits = Table(*forecast["splits"][0])
        for split in forecast["splits"]:
            splits.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in split.values()))
        console.print(splits)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
