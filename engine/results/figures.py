"""The figures of `summary.json` that come from a run's events: seconds, rates, overlap."""

from __future__ import annotations

from collections.abc import Iterable

_PAUSE_SECONDS = 60.0
"""A longer pause between chunks or epochs is the time between two attempts, not work."""


def spans(events: Iterable[dict], kind: str) -> list[tuple[float, float]]:
    """(start, end) in seconds since 1970 of the events of a kind, sorted."""
    return sorted((event["start"], event["end"]) for event in events if event["event"] == kind)


def union(intervals: list[tuple[float, float]], gap: float = 0.0) -> list[tuple[float, float]]:
    """Merge sorted intervals that overlap or lie at most `gap` seconds apart."""
    merged: list[tuple[float, float]] = []
    for start, end in intervals:
        if merged and start <= merged[-1][1] + gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def length(intervals: list[tuple[float, float]]) -> float:
    """Seconds of disjoint intervals together."""
    return sum(end - start for start, end in intervals)


def overlap(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float:
    """Seconds that lie in both of two lists of disjoint intervals."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in first for b in second)


def wall_seconds(events: list[dict]) -> float:
    """From the start of each attempt to its last event, added up. A killed attempt counts to the
    last thing it did.
    """
    total, start, last = 0.0, None, 0.0
    for event in events:
        if event["event"] == "start":
            total += last - start if start is not None else 0.0
            start = event["time"]
        last = event["time"] if event["event"] == "start" else max(last, event["time"])
    return total + (last - start if start is not None else 0.0)


def since_command(events: list[dict], kind: str, moment: str) -> float | None:
    """Seconds from the command to the first `moment` of an event of a kind, in the last attempt
    that has one. None without.
    """
    command: float | None = None
    firsts: dict[float, float] = {}
    for event in events:
        if event["event"] == "start":
            command = event.get("command", event["time"])
        elif event["event"] == kind and moment in event and command is not None:
            firsts[command] = min(event[moment], firsts.get(command, event[moment]))
    return [first - begin for begin, first in firsts.items()][-1] if firsts else None


def figures(events: list[dict]) -> dict:
    """The groups `seconds`, `mixer`, `trainer` and `overlap` of `summary.json`.

    A phase's seconds are the length of the union of its spans over all attempts. `to_first_mix` and
    `to_first_step` count from the command, and are left out where it did not come to that.
    `mixer.busy_fraction` is the time in mixer calls over the mixers' time between their first and
    last chunk. `overlap.concurrent_fraction` is the share of the shorter phase's span in which both
    phases ran.
    """
    mixing = union(spans(events, "mix"), _PAUSE_SECONDS)
    training = union(spans(events, "train"), _PAUSE_SECONDS)
    shorter = min(length(mixing), length(training))
    return {
        "seconds": _seconds(events, length(mixing), length(training)),
        "mixer": _mixer(events, length(mixing)),
        "trainer": _trainer(events, length(training)),
        "overlap": {"concurrent_fraction": _ratio(overlap(mixing, training), shorter)},
    }


def _seconds(events: list[dict], mixing: float, training: float) -> dict:
    seconds = {
        "personalize": length(union(spans(events, "personalize"))),
        "generate": mixing,
        "train": training,
        "baseline": length(union(spans(events, "baseline"))),
        "wall": wall_seconds(events),
    }
    firsts = {
        "to_first_mix": since_command(events, "mix", "end"),
        "to_first_step": since_command(events, "train", "first_step"),
    }
    for name, value in firsts.items():
        if value is not None:
            seconds[name] = value
    return seconds


def _mixer(events: list[dict], mixing: float) -> dict:
    """`mixing` is the phase's seconds."""
    chunks = [event for event in events if event["event"] == "mix"]
    by_actor: dict[str, list[dict]] = {}
    for chunk in chunks:
        by_actor.setdefault(chunk["actor"], []).append(chunk)
    held = 0.0
    for made in by_actor.values():
        held += max(chunk["end"] for chunk in made) - min(chunk["start"] for chunk in made)
    mixes = sum(chunk["mixes"] for chunk in chunks)
    busy = sum(chunk["end"] - chunk["start"] for chunk in chunks)
    return {
        "images_per_second": _ratio(mixes, mixing),
        "images_per_busy_second": _ratio(mixes, busy),
        "busy_fraction": _ratio(busy, held),
    }


def _trainer(events: list[dict], training: float) -> dict:
    """`training` is the phase's seconds."""
    epochs = [event for event in events if event["event"] == "train"]
    images = sum(epoch["images"] for epoch in epochs)
    loop = sum(epoch["end"] - epoch["start"] for epoch in epochs)
    return {
        "workers": 1 + max((epoch.get("rank", 0) for epoch in epochs), default=-1),
        "images_per_second": _ratio(images, training),
        "data_wait_fraction": _ratio(sum(epoch["wait"] for epoch in epochs), loop),
        "synthetic_share": _ratio(sum(epoch["synthetic"] for epoch in epochs), images),
    }


def _ratio(part: float, whole: float) -> float:
    """0 where there is nothing to divide by."""
    return part / whole if whole else 0.0
