"""The figures that a reader wants first, from a run's `summary.json`."""

from __future__ import annotations


def headline(summary: dict) -> list[tuple[str, str]]:
    """(what, figure) as text, most important first; figures that a run does not have are left out."""
    rows: list[tuple[str, str]] = []
    accuracy, baseline = summary.get("accuracy", {}), summary.get("baseline", {})
    plan, mixer = summary.get("plan", {}), summary.get("mixer", {})
    mixed = bool(plan.get("planned"))
    for key, words in (("top1", "accuracy"), ("worst_group", "accuracy in the worst group")):
        if key in baseline:
            rows.append((f"{words} without mixes", percent(baseline[key])))
        if key in accuracy:
            rows.append((f"{words} with mixes" if mixed else words, percent(accuracy[key])))
    if mixed:
        rejected = f", {plan['rejected']} rejected" if plan.get("rejected") else ""
        rows.append(("mixes made", f"{plan['stored']} of {plan['planned']} planned{rejected}"))
        if mixer.get("images_per_second"):
            rows.append(("mixes per second", f"{mixer['images_per_second']:.1f}"))
        if "oracle_share" in mixer:
            rows.append(("mixes that show their class (oracle)", percent(mixer["oracle_share"])))
        if "concurrent_fraction" in summary.get("overlap", {}):
            rows.append(("time in which both phases ran", percent(summary["overlap"]["concurrent_fraction"])))
        if "synthetic_share" in summary.get("trainer", {}):
            rows.append(("share of mixes in training", percent(summary["trainer"]["synthetic_share"])))
    took = summary.get("seconds", {})
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in took.items() if value and not name.startswith("to_"))
    if seconds:
        rows.append(("seconds", seconds))
    for key, what in (("to_first_mix", "first mix"), ("to_first_step", "first train step")):
        if key in took:
            rows.append((f"seconds from command to {what}", f"{took[key]:.0f}"))
    return rows


def percent(share: float) -> str:
    """A share of 0..1 as text."""
    return f"{100 * share:.1f} %"
