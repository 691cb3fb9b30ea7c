"""The charts that come from a run's events: who was busy when, and how training went.

Events are dicts with `event` (their kind) and `time` (seconds since 1970), as in a run's
`metrics.jsonl`. Each function gives None if there is nothing to show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffmix.report.chart import (
    ARMS,
    MIX_COLOR,
    PERSONALIZE_COLOR,
    WAIT_COLOR,
    Chart,
    ColorScale,
    Table,
)

_MOST_MIXERS = 12  # more than these share one lane
_GAP_SHARE = 1 / 400
"""Spans of a lane that lie closer than this share of the run's time are drawn as one."""
_MOST_POINTS = 400


class Lane(NamedTuple):
    """When somebody was busy."""

    name: str
    color: str
    spans: list[tuple[float, float]]
    """Seconds of work since the start."""
    texts: Sequence[str] = ()
    """What each span was; empty: nothing to say."""


def timeline(events: list[dict]) -> Chart | None:
    """When each phase ran, and what was waited for meanwhile."""
    lanes = _lanes(events)
    if not lanes:
        return None
    rows: list[dict[str, Any]] = []
    for lane in lanes:
        for number, (start, end) in enumerate(lane.spans):
            text = lane.texts[number] if lane.texts else ""
            rows.append({"who": lane.name, "start": start, "end": end, "what": text})
    scale = ColorScale({lane.name: lane.color for lane in lanes})
    spec = {
        "data": {"values": rows},
        "height": 20 * len(lanes),
        "mark": {"type": "bar", "tooltip": True},
        "params": [_zoom(["x"])],
        "encoding": {
            "x": {"field": "start", "type": "quantitative", "title": "seconds of work"},
            "x2": {"field": "end"},
            "y": {"field": "who", "type": "nominal", "sort": list(scale.colors), "title": None},
            "color": scale.encoding("who", legend=False),
            "tooltip": [
                {"field": "who", "title": "who"},
                {"field": "start", "format": ".1f"},
                {"field": "end", "format": ".1f"},
                {"field": "what", "title": "what"},
            ],
        },
    }
    busy = [f"{lane.name} {sum(b - a for a, b in lane.spans):.0f} s" for lane in lanes]
    return Chart(
        key="timeline",
        title="When what ran",
        text="Seconds of work since the start. The time between a killed attempt and the next one "
        "does not count.",
        spec=spec,
        table=Table(
            ("who", "start, s", "end, s", "what"),
            [[r["who"], round(r["start"], 2), round(r["end"], 2), r["what"]] for r in rows],
        ),
        described=f"Busy: {', '.join(busy)}.",
    )


def mixes_over_time(events: list[dict]) -> Chart | None:
    """The mixes made, and those that training could draw from."""
    clock = _clock(events)
    chunks = sorted((clock(e["end"]), e["mixes"]) for e in events if e["event"] == "mix")
    if not chunks:
        return None
    made = np.cumsum([count for _, count in chunks])
    points = [(0.0, 0), *zip([time for time, _ in chunks], made.tolist(), strict=True)]
    rows = [{"s": time, "mixes": count, "which": "made"} for time, count in _thinned(points)]
    held = [(time, int(count)) for time, count in _pool(events, clock)]
    rows += [{"s": t, "mixes": n, "which": "available to training"} for t, n in _thinned(held)]
    scale = ColorScale({"made": MIX_COLOR, "available to training": ARMS["train"][1]})
    spec = {
        "data": {"values": rows},
        "height": 200,
        "mark": {"type": "line", "interpolate": "step-after", "tooltip": True},
        "encoding": {
            "x": {"field": "s", "type": "quantitative", "title": "seconds of work"},
            "y": {"field": "mixes", "type": "quantitative", "title": "mixes"},
            "color": scale.encoding("which"),
        },
    }
    rate = made[-1] / max(chunks[-1][0] - chunks[0][0], 1e-9)
    return Chart(
        key="mixes-over-time",
        title="Mixes over time",
        text="How many mixes had been made, and how many each epoch could draw from.",
        spec=spec,
        table=Table(
            ("seconds", "mixes", "which"), [[r["s"], r["mixes"], r["which"]] for r in rows]
        ),
        described=f"{made[-1]} mixes, {rate:.3g} a second.",
    )


def training_curves(events: list[dict]) -> list[Chart]:
    """Loss per epoch, and the recorded validation accuracy, with and without mixes."""
    loss, validation = [], []
    for kind, (name, _) in ARMS.items():
        for epoch, value in _per_epoch(events, kind, "loss"):
            loss.append({"epoch": int(epoch) + 1, "y": float(value), "arm": name})
        measured = (event for event in events if event.get("phase") == kind)
        for epoch, value in _per_epoch(measured, "validation", "top1"):
            validation.append({"epoch": int(epoch) + 1, "y": 100 * float(value), "arm": name})
    text = "The loss of mixes is against their soft labels, so the two losses cannot be compared."
    found = [
        ("loss", "Training loss", text, "loss", loss),
        ("validation", "Validation accuracy", "It picks the epoch.", "accuracy, %", validation),
    ]
    return [_curve(*one) for one in found if one[-1]]


def _curve(key: str, title: str, text: str, name: str, rows: list[dict]) -> Chart:
    scale = ColorScale(dict(ARMS.values()))
    last = {row["arm"]: row for row in rows}
    spec = {
        "data": {"values": rows},
        "height": 200,
        "mark": {"type": "line", "point": len(rows) < 60, "tooltip": True},
        "params": [_zoom(["x", "y"])],
        "encoding": {
            "x": {
                "field": "epoch",
                "type": "quantitative",
                "axis": {"tickMinStep": 1, "format": "d"},
            },
            "y": {"field": "y", "type": "quantitative", "title": name, "scale": {"zero": False}},
            "color": scale.encoding("arm"),
        },
    }
    ends = [f"{arm} {row['y']:.3g} after epoch {row['epoch']}" for arm, row in last.items()]
    table = Table(("epoch", name, "arm"), [[r["epoch"], r["y"], r["arm"]] for r in rows])
    return Chart(
        key=key, title=title, text=text, spec=spec, table=table, described=f"{', '.join(ends)}."
    )


def _zoom(channels: list[str]) -> dict:
    """Drag to move; the wheel zooms with Shift, as without it the page scrolls."""
    select = {"type": "interval", "encodings": channels, "zoom": "wheel![event.shiftKey]"}
    return {"name": "zoom", "select": select, "bind": "scales"}


def _thinned(points: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most so many points, evenly spaced, with the first and the last."""
    if len(points) <= _MOST_POINTS:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int)]


def _per_epoch(events: Iterable[dict], kind: str, key: str) -> Float[np.ndarray, "epochs 2"]:
    """Epoch, and the mean of `key` over ranks. Of a repeated epoch, the last attempt counts."""
    latest: dict[tuple[int, int], float] = {}
    for event in events:
        if event["event"] == kind and event.get(key) is not None:
            latest[event["epoch"], event.get("rank", 0)] = event[key]
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for (epoch, _), value in latest.items():
        by_epoch[epoch].append(value)
    points = [(epoch, np.mean(values)) for epoch, values in sorted(by_epoch.items())]
    return np.array(points, dtype=float).reshape(-1, 2)


def _clock(events: list[dict]) -> Callable[[float], float]:
    """A function from an event's time to the seconds of work until then.

    The time between a killed attempt and the next one does not count.
    """
    starts: list[float] = []
    ends: list[float] = []
    for event in events:
        is_start = event["event"] == "start"
        if is_start or not starts:
            starts.append(event["time"] if is_start else event.get("start", event["time"]))
            ends.append(starts[-1])
        ends[-1] = max(ends[-1], event["time"])
    before = np.concatenate([[0.0], np.cumsum(np.subtract(ends, starts))])

    def clock(moment: float) -> float:
        attempt = max(int(np.searchsorted(starts, moment, side="right")) - 1, 0)
        start, end = starts[attempt], ends[attempt]
        return float(before[attempt] + np.clip(moment - start, 0.0, end - start))

    return clock


def _lanes(events: list[dict]) -> list[Lane]:
    """Who was busy, from top to bottom."""
    if not events:
        return []
    clock = _clock(events)
    gap = _GAP_SHARE * clock(max((event["time"] for event in events), default=0.0))

    def spans(kind: str) -> list[tuple[float, float]]:
        found = [(e["start"], e["end"]) for e in events if e["event"] == kind]
        return _joined([(clock(a), max(clock(b), clock(a) + 1e-3)) for a, b in found], gap)

    actors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["event"] == "mix":
            actors[event["actor"]].append((clock(event["start"]), clock(event["end"])))
    mixers = [_joined(busy, gap) for busy in sorted(actors.values())]
    names = ["mixing"]
    if len(mixers) > _MOST_MIXERS:
        mixers = [spans("mix")]
    elif len(mixers) != 1:
        names = [f"mixer {number + 1}" for number in range(len(mixers))]
    waits = _waits(events, clock)
    found = [
        Lane("training without mixes", ARMS["baseline"][1], spans("baseline")),
        Lane("personalizing", PERSONALIZE_COLOR, spans("personalize")),
        *(Lane(name, MIX_COLOR, busy) for name, busy in zip(names, mixers, strict=True)),
        Lane("training with mixes", ARMS["train"][1], spans("train")),
        Lane("waiting", WAIT_COLOR, [(a, b) for a, b, _ in waits], [text for *_, text in waits]),
    ]
    return [lane for lane in found if lane.spans]


def _waits(events: list[dict], clock: Callable[[float], float]) -> list[tuple[float, float, str]]:
    """(start, end, what for) of each wait: to the next `waiting` event, or to the attempt's end."""
    found: list[tuple[float, float, str]] = []
    begun: dict | None = None
    last = 0.0
    for event in [*events, {"event": "start", "time": np.inf}]:
        if begun is not None and event["event"] in ("waiting", "start", "end"):
            end = last if event["event"] == "start" else event["time"]
            found.append((clock(begun["time"]), clock(end), begun["text"]))
            begun = None
        if event["event"] == "waiting" and event["text"]:
            begun = event
        last = event["time"]
    return found


def _joined(spans: list[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Spans that overlap or lie at most `gap` apart as one, sorted."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _pool(events: list[dict], clock: Callable[[float], float]) -> Float[np.ndarray, "epochs 2"]:
    """At the end of each epoch: the time, and the number of mixes in the pools of all workers."""
    held: dict[int, int] = {}
    points = []
    for event in sorted((e for e in events if e["event"] == "train"), key=lambda e: e["end"]):
        held[event["rank"]] = event["pool"]
        points.append((clock(event["end"]), sum(held.values())))
    return np.array(points, dtype=float).reshape(-1, 2)
