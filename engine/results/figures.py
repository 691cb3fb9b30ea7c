"""The figures of `summary.json` that come from a run's events: seconds, rates, overlap."""

from __future__ import annotations

from collections.abc import Iterable


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
    return sum(end - start for start, end in intervals)


def overlap(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float:
    """Seconds that lie in both of two lists of disjoint intervals."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in first for b in second)


def wall_seconds(events: list[dict]) -> float:
    """From the start of each attempt to its last event, added up; a killed attempt counts to the
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
    that has one; None without.
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
    """The figures of `summary.json` that come from events.

    A phase's seconds are the length of the union of its spans over all attempts; `to_first_mix` and
    `to_first_step` count from the command and are there where it came to that.
    `mixer.busy_fraction` is the time in mixer calls over the mixers' time between their first and
    last chunk; `overlap.concurrent_fraction` is the share of the shorter phase's span in which both
    ran.
    """
    pauses = 60.0  # a pause of more than this between chunks or epochs is another attempt, not work
    mix, train = spans(events, "mix"), spans(events, "train")
    mixing, training = union(mix, pauses), union(train, pauses)
    actors: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if event["event"] == "mix":
            actors.setdefault(event["actor"], []).append((event["start"], event["end"]))
    held = sum(
        max(end for _, end in spans_) - min(start for start, _ in spans_)
        for spans_ in actors.values()
    )
    busy = sum(end - start for start, end in mix)
    mixed = [event for event in events if event["event"] == "mix"]
    trained = [event for event in events if event["event"] == "train"]
    images = sum(event["images"] for event in trained)
    loop = sum(event["end"] - event["start"] for event in trained)
    shorter = min(length(mixing), length(training))
    generate = length(mixing)
    first = {
        "to_first_mix": since_command(events, "mix", "end"),
        "to_first_step": since_command(events, "train", "first_step"),
    }
    return {
        "seconds": {
            "personalize": length(union(spans(events, "personalize"))),
            "generate": generate,
            "train": length(training),
            "baseline": length(union(spans(events, "baseline"))),
            "wall": wall_seconds(events),
            **{name: value for name, value in first.items() if value is not None},
        },
        "mixer": {
            "images_per_second": sum(event["mixes"] for event in mixed) / generate
            if generate
            else 0.0,
            "images_per_busy_second": sum(event["mixes"] for event in mixed) / busy
            if busy
            else 0.0,
            "busy_fraction": busy / held if held else 0.0,
        },
        "trainer": {
            "workers": 1 + max((event.get("rank", 0) for event in trained), default=-1),
            "images_per_second": images / length(training) if training else 0.0,
            "data_wait_fraction": sum(event["wait"] for event in trained) / loop if loop else 0.0,
            "synthetic_share": sum(event["synthetic"] for event in trained) / images
            if images
            else 0.0,
        },
        "overlap": {"concurrent_fraction": overlap(mixing, training) / shorter if shorter else 0.0},
    }
