"""The figures that a reader wants first, from a run's `summary.json`."""

from __future__ import annotations


def headline(summary: dict) -> list[tuple[str, str]]:
    """(what, figure) as text, most important first; figures that a run does not have are left out."""
    rows: list[tuple[str, str]] = []
    accuracy, baseline = summary.get("accuracy", {}), summary.get("baseline", {})
    plan, mixer = summary.get("plan", {}), summary.get("mixer", {})
    mixed = bool(plan.get("planned"))
    deviation = summary.get("std", {})
    for key, words in (
        ("top1", "accuracy"),
        ("worst_group", "accuracy in the worst group"),
        ("per_size", "accuracy in"),
    ):
        for arm, found, which in (
            ("baseline", baseline, " without mixes"),
            ("accuracy", accuracy, " with mixes" if mixed else ""),
        ):
            if key == "per_size" and found.get(key):
                shares = ", ".join(percent(share) for share in found[key].values())
                rows.append((f"{words} {', '.join(found[key])} shot classes{which}", shares))
            elif key in found:
                spread = (
                    f" ± {100 * deviation[arm][key]:.1f}" if key in deviation.get(arm, {}) else ""
                )
                rows.append((f"{words}{which}", f"{percent(found[key])}{spread}"))
    if summary.get("seeds"):
        rows.append(
            (
                "mean and standard deviation of",
                f"{len(summary['seeds'])} seeds ({', '.join(summary['seeds'])})",
            )
        )
    if "calibration" in accuracy:
        rows.append(("calibration error (ECE)", percent(accuracy["calibration"]["ece"])))
    if picked_on_test(summary):
        rows.append(
            (
                "epoch picked on",
                "the test set, as the reference does: too good to be compared with held-out figures",
            )
        )
    if mixed:
        rejected = f", {plan['rejected']} rejected" if plan.get("rejected") else ""
        rows.append(("mixes made", f"{plan['stored']} of {plan['planned']} planned{rejected}"))
        if mixer.get("images_per_second"):
            rows.append(("mixes per second", f"{mixer['images_per_second']:.1f}"))
        if "oracle_share" in mixer:
            rows.append(("mixes that show their class (oracle)", percent(mixer["oracle_share"])))
        if "concurrent_fraction" in summary.get("overlap", {}):
            rows.append(
                (
                    "time in which both phases ran",
                    percent(summary["overlap"]["concurrent_fraction"]),
                )
            )
        if "synthetic_share" in summary.get("trainer", {}):
            rows.append(
                ("share of mixes in training", percent(summary["trainer"]["synthetic_share"]))
            )
    took = summary.get("seconds", {})
    seconds = ", ".join(
        f"{name} {value:.0f}"
        for name, value in took.items()
        if value and not name.startswith("to_")
    )
    if seconds:
        rows.append(("seconds", seconds))
    for key, what in (("to_first_mix", "first mix"), ("to_first_step", "first train step")):
        if key in took:
            rows.append((f"seconds from command to {what}", f"{took[key]:.0f}"))
    return rows


def picked_on_test(summary: dict) -> bool:
    """Whether the reference's protocol was used: its figures are those of the epoch that is best on
    the test set.
    """
    return any(
        (summary.get(arm, {}).get("chosen") or {}).get("on_test_set", False)
        for arm in ("accuracy", "baseline")
    )


def percent(share: float) -> str:
    """A share of 0..1 as text."""
    return f"{100 * share:.1f} %"
