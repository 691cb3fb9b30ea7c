"""The figures of a run's `summary.json` that a reader wants first."""

from __future__ import annotations

_Rows = list[tuple[str, str]]


def headline(summary: dict) -> list[tuple[str, str]]:
    """Pairs of name and figure, as text, the most important first.

    Figures that `summary` lacks are left out.
    """
    rows = _accuracy_rows(summary)
    if summary.get("seeds"):
        seeds = f"{len(summary['seeds'])} seeds ({', '.join(summary['seeds'])})"
        rows.append(("mean and standard deviation of", seeds))
    if "calibration" in summary.get("accuracy", {}):
        error = summary["accuracy"]["calibration"]["ece"]
        rows.append(("calibration error (ECE)", percent(error)))
    if picked_on_test(summary):
        warning = "the test set, as the reference does: too good to compare with held-out figures"
        rows.append(("epoch picked on", warning))
    if leak := summary.get("leak"):
        warning = (
            f"{leak['unseen_images']} images that the classifier is not given, "
            f"{leak['test_images']} of them test images: too good to compare"
        )
        rows.append(("concept has seen", warning))
    return rows + _mix_rows(summary) + _seconds_rows(summary.get("seconds", {}))


def _accuracy_rows(summary: dict) -> _Rows:
    accuracy, baseline = summary.get("accuracy", {}), summary.get("baseline", {})
    deviation = summary.get("std", {})
    with_mixes = " with mixes" if _has_mixes(summary) else ""
    arms = [("baseline", baseline, " without mixes"), ("accuracy", accuracy, with_mixes)]
    rows: _Rows = []
    for key, name in (("top1", "accuracy"), ("worst_group", "accuracy in the worst group")):
        for arm, found, which in arms:
            if key in found:
                spread = ""
                if key in deviation.get(arm, {}):
                    spread = f" ± {100 * deviation[arm][key]:.1f}"
                rows.append((f"{name}{which}", f"{percent(found[key])}{spread}"))
    for _, found, which in arms:
        if sizes := found.get("per_size"):
            shares = ", ".join(percent(share) for share in sizes.values())
            rows.append((f"accuracy in {', '.join(sizes)} shot classes{which}", shares))
    return rows


def _mix_rows(summary: dict) -> _Rows:
    if not _has_mixes(summary):
        return []
    plan, mixer = summary["plan"], summary.get("mixer", {})
    overlap, trainer = summary.get("overlap", {}), summary.get("trainer", {})
    rejected = f", {plan['rejected']} rejected" if plan.get("rejected") else ""
    aside = f", {plan['set_aside']} set aside" if plan.get("set_aside") else ""
    cut = f", {plan['cut']} left out by a limit" if plan.get("cut") else ""
    missing = f", {plan['missing']} not made yet" if plan.get("missing") else ""
    made = f"{plan['stored']} of {plan['planned']} planned{rejected}{aside}{cut}{missing}"
    rows = [("mixes made", made)]
    if mixer.get("images_per_second"):
        rows.append(("mixes per second", f"{mixer['images_per_second']:.1f}"))
    if "oracle_share" in mixer:
        rows.append(("mixes that show their class (oracle)", percent(mixer["oracle_share"])))
    if "concurrent_fraction" in overlap:
        share = percent(overlap["concurrent_fraction"])
        rows.append(("time in which both phases ran", share))
    if "synthetic_share" in trainer:
        rows.append(("share of mixes in training", percent(trainer["synthetic_share"])))
    return rows


def _seconds_rows(seconds: dict) -> _Rows:
    phases = []
    for name, value in seconds.items():
        if value and not name.startswith("to_"):
            phases.append(f"{name} {value:.0f}")
    rows = [("seconds", ", ".join(phases))] if phases else []
    for key, what in (("to_first_mix", "first mix"), ("to_first_step", "first train step")):
        if key in seconds:
            rows.append((f"seconds from command to {what}", f"{seconds[key]:.0f}"))
    return rows


def _has_mixes(summary: dict) -> bool:
    return bool(summary.get("plan", {}).get("planned"))


def picked_on_test(summary: dict) -> bool:
    """Whether an epoch was chosen by its accuracy on the test set (`train.protocol: reference`)."""
    chosen = [summary.get(arm, {}).get("chosen") or {} for arm in ("accuracy", "baseline")]
    return any(one.get("on_test_set", False) for one in chosen)


def percent(share: float) -> str:
    """A share in [0, 1] as text, with one decimal."""
    return f"{100 * share:.1f} %"
