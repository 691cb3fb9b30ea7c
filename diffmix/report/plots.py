"""The report's plots, as matplotlib figures. Each function gives None where a run has nothing to
show there.

Events are dicts with `event` (their kind) and `time`, as a run's `metrics.jsonl` has them.
"""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from diffmix.class_names import spoken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = {"baseline": ("without mixes", "#9a9a9a"), "train": ("with mixes", "#1f6fb4")}
"""The kinds of training events, and how they are named and colored in every plot."""

_MIX_COLOR, _PERSONALIZE_COLOR = "#e08a1e", "#7a5aa8"
_MOST_MIXERS = 12  # more share one line
_MOST_CLASSES = 40  # of more, those are shown that changed most


def training_curves(events: list[dict]) -> Figure | None:
    """Loss per epoch, and validation accuracy where it was recorded, with and without mixes."""
    losses = {kind: _per_epoch(events, kind, "loss") for kind in ARMS}
    validation = {
        kind: _per_epoch(
            (e for e in events if e["event"] == "validation" and e.get("phase") == kind),
            "validation",
            "top1",
        )
        for kind in ARMS
    }
    panels = [
        (values, name)
        for values, name in (
            (losses, "training loss"),
            (validation, "accuracy that picks the epoch, %"),
        )
        if any(len(points) for points in values.values())
    ]
    if not panels:
        return None
    from matplotlib.ticker import MaxNLocator

    figure = _figure(8.4, 2.9)
    for number, (values, name) in enumerate(panels):
        axes = _axes(figure, 1, len(panels), number + 1, xlabel="epoch", ylabel=name)
        factor = 100 if name.endswith("%") else 1
        for kind, (label, color) in ARMS.items():
            if len(values[kind]):
                marker = "o" if len(values[kind]) < 3 else None
                axes.plot(
                    values[kind][:, 0] + 1,
                    factor * values[kind][:, 1],
                    color=color,
                    label=label,
                    marker=marker,
                )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return figure


def timeline(events: list[dict]) -> Figure | None:
    """When each phase ran, and below it how many mixes there were and how many the training had at
    hand.
    """
    clock = _clock(events)
    lanes = _lanes(events)
    if not lanes:
        return None
    mixes = sorted((clock(e["end"]), e["mixes"]) for e in events if e["event"] == "mix")
    figure = _figure(8.4, 1.1 + 0.26 * len(lanes) + (1.8 if mixes else 0))
    ratios = {"height_ratios": [0.6 + 0.3 * len(lanes), 2.2]} if mixes else {}
    grid = figure.add_gridspec(2 if mixes else 1, 1, **ratios)
    top = _style(figure.add_subplot(grid[0]), xlabel="" if mixes else "seconds")
    for number, (_, spans, color) in enumerate(lanes):
        top.broken_barh(
            [(clock(a), max(clock(b) - clock(a), 1e-3)) for a, b in spans],
            (number - 0.36, 0.72),
            color=color,
            linewidth=0,
        )
    top.set_yticks(range(len(lanes)), [name for name, _, _ in lanes])
    top.set_ylim(len(lanes) - 0.4, -0.6)
    top.set_xlim(left=0)
    if mixes:
        bottom = _style(figure.add_subplot(grid[1], sharex=top), xlabel="seconds", ylabel="mixes")
        times, made = [time for time, _ in mixes], np.cumsum([count for _, count in mixes])
        bottom.step([0, *times], [0, *made], where="post", color=_MIX_COLOR, label="made")
        pool = _pool(events, clock)
        if len(pool):
            bottom.plot(
                pool[:, 0],
                pool[:, 1],
                color=ARMS["train"][1],
                marker=".",
                label="at hand in training",
            )
        bottom.legend(frameon=False, loc="upper left")
    return figure


def class_accuracy(accuracy: dict, baseline: dict, class_names: list[str]) -> Figure | None:
    """Test accuracy of each class, with and without mixes. `accuracy` and `baseline` hold
    `per_class`: {label: share}.
    """
    arms = _arms(accuracy, baseline, "per_class")
    if not arms:
        return None
    labels = sorted({int(label) for values in arms.values() for label in values})
    values = {
        kind: {int(label): share for label, share in shares.items()}
        for kind, shares in arms.items()
    }
    if len(labels) > _MOST_CLASSES:
        first, last = values.get("baseline", {}), values.get("train", {})
        change = {label: last.get(label, 0.0) - first.get(label, 0.0) for label in labels}
        ranked = sorted(labels, key=lambda label: (change[label], label))
        labels = [*ranked[-_MOST_CLASSES // 2 :][::-1], *ranked[: _MOST_CLASSES // 2][::-1]]
    names = [spoken(class_names[label]) for label in labels]
    return _bars(
        names,
        {kind: [shares.get(label, np.nan) for label in labels] for kind, shares in values.items()},
    )


def group_accuracy(accuracy: dict, baseline: dict) -> Figure | None:
    """Test accuracy of each group, with and without mixes. `accuracy` and `baseline` may hold
    `per_group`: {name: share}.
    """
    arms = _arms(accuracy, baseline, "per_group")
    names = sorted({name for shares in arms.values() for name in shares})
    return (
        _bars(
            names,
            {kind: [shares.get(name, np.nan) for name in names] for kind, shares in arms.items()},
        )
        if names
        else None
    )


def confusion_matrix(confusion: list[list[int]] | None, class_names: list[str]) -> Figure | None:
    """Which class (row) was taken for which (column), as shares of the row. `confusion` is
    `metrics.confusion`'s matrix.
    """
    if not confusion:
        return None
    counts = np.array(confusion, dtype=float)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(class_names) <= _MOST_CLASSES
    side = 2.2 + 0.24 * len(class_names) if named else 8.4
    figure = _figure(min(side + 1.4, 8.4), min(side, 7.6))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="taken for", ylabel="class")
    if named:
        names = [name if len(name) <= 24 else f"{name[:23]}…" for name in map(spoken, class_names)]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, label="% of the class's test images", shrink=0.8)
    return figure


def reliability(accuracy: dict, baseline: dict) -> Figure | None:
    """Accuracy against confidence, with and without mixes; on the diagonal the classifier knows how
    often it is right.
    """
    arms = _arms(accuracy, baseline, "calibration")
    if not any(found.get("bins") for found in arms.values()):
        return None
    figure = _figure(4.6, 4.0)
    axes = _axes(figure, 1, 1, 1, xlabel="confidence, %", ylabel="accuracy, %")
    axes.plot([0, 100], [0, 100], color="#c0c0c0", linewidth=1)
    for kind, found in arms.items():
        label, color = ARMS[kind]
        points = 100 * np.array([(one["confidence"], one["accuracy"]) for one in found["bins"]])
        axes.plot(
            points[:, 0],
            points[:, 1],
            color=color,
            marker="o",
            label=f"{label} (ECE {100 * found['ece']:.1f} %)",
        )
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.legend(frameon=False, loc="upper left")
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file whose text stays text: the reader's own fonts show every script.
    The same figure, the same bytes.
    """
    import matplotlib

    buffer = io.BytesIO()
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "diffmix"}),
    ):
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing"
        )  # of the font that the text is measured with, not of the reader's
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import (
        Figure,  # draws with Agg; pyplot's windows and global state are not needed
    )

    return Figure(figsize=(width, height), layout="constrained")


def _axes(figure: Figure, rows: int, columns: int, number: int, **labels: str) -> Axes:
    return _style(figure.add_subplot(rows, columns, number), **labels)


def _style(axes: Axes, xlabel: str = "", ylabel: str = "") -> Axes:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _bars(names: list[str], arms: dict[str, list[float]]) -> Figure:
    """Horizontal bars of shares, one group of bars for each name, from top to bottom."""
    figure = _figure(8.4, 1.1 + 0.16 * (len(arms) + 1) * len(names))
    axes = _axes(figure, 1, 1, 1, xlabel="test accuracy, %")
    thickness = 0.8 / len(arms)
    for number, (kind, shares) in enumerate(arms.items()):
        label, color = ARMS[kind]
        places = np.arange(len(names)) + (number - (len(arms) - 1) / 2) * thickness
        axes.barh(places, 100 * np.array(shares), thickness * 0.92, color=color, label=label)
    axes.set_yticks(
        range(len(names)), [name if len(name) <= 40 else f"{name[:39]}…" for name in names]
    )
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    figure.legend(
        *axes.get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=2
    )
    return figure


def _arms(accuracy: dict, baseline: dict, key: str) -> dict[str, dict]:
    return {
        kind: found[key]
        for kind, found in (("baseline", baseline), ("train", accuracy))
        if found.get(key)
    }


def _per_epoch(events: Iterable[dict], kind: str, key: str) -> np.ndarray:
    """float [n, 2]: epoch and mean over ranks; where an epoch was repeated after a restart, its
    last attempt counts.
    """
    latest = {
        (e["epoch"], e.get("rank", 0)): e[key]
        for e in events
        if e["event"] == kind and e.get(key) is not None
    }
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for (epoch, _), value in latest.items():
        by_epoch[epoch].append(value)
    return np.array(
        [(epoch, np.mean(values)) for epoch, values in sorted(by_epoch.items())]
    ).reshape(-1, 2)


def _clock(events: list[dict]) -> Callable[[float], float]:
    """Seconds of work up to a moment: the time between an attempt that was killed and the next one
    does not count.
    """
    starts: list[float] = []
    ends: list[float] = []
    for event in events:
        if event["event"] == "start" or not starts:
            starts.append(
                event.get("start", event["time"]) if event["event"] != "start" else event["time"]
            )
            ends.append(starts[-1])
        ends[-1] = max(ends[-1], event["time"])
    before = np.concatenate([[0.0], np.cumsum(np.subtract(ends, starts))])

    def clock(moment: float) -> float:
        attempt = max(int(np.searchsorted(starts, moment, side="right")) - 1, 0)
        return float(
            before[attempt]
            + np.clip(moment - starts[attempt], 0.0, ends[attempt] - starts[attempt])
        )

    return clock


def _lanes(events: list[dict]) -> list[tuple[str, list[tuple[float, float]], str]]:
    """(name, spans, color) from top to bottom."""

    def spans(kind: str) -> list[tuple[float, float]]:
        return sorted((e["start"], e["end"]) for e in events if e["event"] == kind)

    actors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["event"] == "mix":
            actors[event["actor"]].append((event["start"], event["end"]))
    mixers = sorted(actors.values())
    if len(mixers) > _MOST_MIXERS:
        mixers = [spans("mix")]
    names = (
        ["mixing"] if len(mixers) == 1 else [f"mixer {number + 1}" for number in range(len(mixers))]
    )
    found = [
        ("training without mixes", spans("baseline"), ARMS["baseline"][1]),
        ("personalizing", spans("personalize"), _PERSONALIZE_COLOR),
        *((name, busy, _MIX_COLOR) for name, busy in zip(names, mixers, strict=True)),
        ("training with mixes", spans("train"), ARMS["train"][1]),
    ]
    return [lane for lane in found if lane[1]]


def _pool(events: list[dict], clock: Callable[[float], float]) -> np.ndarray:
    """float [n, 2]: time and the mixes in all train workers' pools, as each epoch ended."""
    held: dict[int, int] = {}
    points = []
    for event in sorted((e for e in events if e["event"] == "train"), key=lambda e: e["end"]):
        held[event["rank"]] = event["pool"]
        points.append((clock(event["end"]), sum(held.values())))
    return np.array(points).reshape(-1, 2)
