"""GPU-hours of a run by phase, from its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.results.figures import spans, union

_PAUSE_SECONDS = 60.0


class Held(NamedTuple):
    """So many GPUs from one moment to another."""

    start: float
    """Seconds since 1970; so is `end`."""
    end: float
    gpus: float


def gpu_hours(events: Sequence[dict]) -> dict[str, float]:
    """Hours of GPUs that each phase held, over all attempts: Ray's GPUs times the time from a
    worker's first work to its last. Phases that held none are left out; so is all where the run is
    older than its events (`phase`) that say how many GPUs a worker has.

    Time in which a worker was starting counts from its phase's beginning for train workers, and not
    for mixers, whose pool may grow and shrink.
    """
    hours = {}
    for phase, spans_held in held(events).items():
        hours[phase] = sum((end - start) * gpus for start, end, gpus in spans_held) / 3600
    return hours


def held(events: Sequence[dict]) -> dict[str, list[Held]]:
    """When each phase held how many GPUs, as `gpu_hours` counts them. Spans of one phase may
    overlap: each mixer has its own.
    """
    each = {}
    for event in events:
        if event["event"] == "phase" and event["state"] == "begin" and event["workers"]:
            each[event["phase"]] = event["gpus"] / event["workers"]
    found = {}
    for phase, gpus in each.items():
        if phase == "mix":
            spans_held = [Held(start, end, gpus) for start, end in _mixer_spans(events)]
        else:
            spans_held = [
                Held(start, end, workers * gpus)
                for start, end, workers in _phase_spans(events, phase)
            ]
        if gpus and any(end > start for start, end, _ in spans_held):
            found[phase] = spans_held
    return found


def _phase_spans(events: Sequence[dict], phase: str) -> list[tuple[float, float, int]]:
    """From each beginning of a phase to its end, or to the last thing that a killed attempt did,
    with its number of workers; where that changed, a span for each number.
    """
    found: list[tuple[float, float, int]] = []
    begun: float | None = None
    last, workers = 0.0, 0
    for event in [*events, {"event": "start"}]:
        kind = event["event"]
        named = kind == "phase" and event["phase"] == phase
        ends = named or kind == "start" or kind == phase == "personalize"
        if begun is not None and kind != "start" and (ends or kind in (phase, f"{phase}_step")):
            last = event["time"]
        if begun is not None and ends:
            found.append((begun, last, workers))
            begun = None
        if begun is not None and kind == "resize" and event["phase"] == phase:
            found.append((begun, event["time"], workers))
            begun, last, workers = event["time"], event["time"], event["workers"]
        if named and event["state"] == "begin":
            begun, last, workers = event["time"], event["time"], event["workers"]
    return found


def _mixer_spans(events: Sequence[dict]) -> list[tuple[float, float]]:
    """When mixers held their GPUs: each from its start to its last chunk, without long pauses."""
    of_actor: dict[str, list[dict]] = {}
    for event in events:
        if event["event"] in ("mix", "mixer_ready"):
            of_actor.setdefault(event["actor"], []).append({**event, "event": "held"})
    found = []
    for work in of_actor.values():
        found += union(spans(work, "held"), _PAUSE_SECONDS)
    return found
