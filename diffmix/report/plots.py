"""The report's plots as matplotlib figures. Each function gives None if there is nothing to show.

Events are dicts with `event` (their kind) and `time` (seconds since 1970), as in a run's
`metrics.jsonl`.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from diffmix.datasets.class_names import spoken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = {"baseline": ("without mixes", "#9a9a9a"), "train": ("with mixes", "#1f6fb4")}
"""Kind of training event -> its name and color in every plot."""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MIX_COLOR, _PERSONALIZE_COLOR = "#e08a1e", "#7a5aa8"
_MOST_MIXERS = 12  # more than these share one lane
_MOST_CLASSES = 40  # of more classes, those that changed most are shown


def training_curves(events: list[dict]) -> Figure | None:
    """Loss per epoch, and the recorded validation accuracy, with and without mixes."""
    losses, validation = {}, {}
    for kind in ARMS:
        losses[kind] = _per_epoch(events, kind, "loss")
        measured = (event for event in events if event.get("phase") == kind)
        validation[kind] = _per_epoch(measured, "validation", "top1")
    panels = [(losses, "training loss"), (validation, "accuracy that picks the epoch, %")]
    panels = [panel for panel in panels if any(len(points) for points in panel[0].values())]
    if not panels:
        return None
    from matplotlib.ticker import MaxNLocator

    figure = _figure(8.4, 2.9)
    for number, (values, name) in enumerate(panels):
        axes = _axes(figure, 1, len(panels), number + 1, xlabel="epoch", ylabel=name)
        factor = 100 if name.endswith("%") else 1
        for kind, (label, color) in ARMS.items():
            epochs, measured = values[kind].T
            if len(epochs):
                marker = "o" if len(epochs) < 3 else None
                axes.plot(epochs + 1, factor * measured, color=color, label=label, marker=marker)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return figure


def timeline(events: list[dict]) -> Figure | None:
    """When each phase ran; below it the mixes made, and those available to training."""
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
        bars = [(clock(a), max(clock(b) - clock(a), 1e-3)) for a, b in spans]
        top.broken_barh(bars, (number - 0.36, 0.72), color=color, linewidth=0)
    top.set_yticks(range(len(lanes)), [name for name, _, _ in lanes])
    top.set_ylim(len(lanes) - 0.4, -0.6)
    top.set_xlim(left=0)
    if mixes:
        bottom = _style(figure.add_subplot(grid[1], sharex=top), xlabel="seconds", ylabel="mixes")
        times, made = [time for time, _ in mixes], np.cumsum([count for _, count in mixes])
        bottom.step([0, *times], [0, *made], where="post", color=_MIX_COLOR, label="made")
        times, held = _pool(events, clock).T
        if len(times):
            color = ARMS["train"][1]
            bottom.plot(times, held, color=color, marker=".", label="available to training")
        bottom.legend(frameon=False, loc="upper left")
    return figure


def class_accuracy(accuracy: dict, baseline: dict, class_names: list[str]) -> Figure | None:
    """Test accuracy of each class, with and without mixes.

    `accuracy` and `baseline` have `per_class`: {label: share in [0, 1]}.
    """
    arms = _arms(accuracy, baseline, "per_class")
    if not arms:
        return None
    values = {}
    for kind, shares in arms.items():
        values[kind] = {int(label): share for label, share in shares.items()}
    labels = sorted({label for shares in values.values() for label in shares})
    if len(labels) > _MOST_CLASSES:
        first, last = values.get("baseline", {}), values.get("train", {})
        change = {label: last.get(label, 0.0) - first.get(label, 0.0) for label in labels}
        ranked = sorted(labels, key=lambda label: (change[label], label))
        labels = [*ranked[-_MOST_CLASSES // 2 :][::-1], *ranked[: _MOST_CLASSES // 2][::-1]]
    names = [spoken(class_names[label]) for label in labels]
    return _bars(names, {kind: _in_order(shares, labels) for kind, shares in values.items()})


def group_accuracy(accuracy: dict, baseline: dict) -> Figure | None:
    """Test accuracy of each group, with and without mixes.

    `accuracy` and `baseline` may have `per_group`: {name: share in [0, 1]}.
    """
    arms = _arms(accuracy, baseline, "per_group")
    names = sorted({name for shares in arms.values() for name in shares})
    if not names:
        return None
    return _bars(names, {kind: _in_order(shares, names) for kind, shares in arms.items()})


def confusion_matrix(confusion: list[list[int]] | None, class_names: list[str]) -> Figure | None:
    """Which class (row) was taken for which class (column), in percent of the row.

    `confusion` is the matrix of `metrics.confusion`.
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
        names = [_cut(spoken(name), 24) for name in class_names]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, label="% of the class's test images", shrink=0.8)
    return figure


def reliability(accuracy: dict, baseline: dict) -> Figure | None:
    """Accuracy against confidence, with and without mixes.

    On the diagonal, confidence equals accuracy.
    """
    arms = _arms(accuracy, baseline, "calibration")
    if not any(found.get("bins") for found in arms.values()):
        return None
    figure = _figure(4.6, 4.0)
    axes = _axes(figure, 1, 1, 1, xlabel="confidence, %", ylabel="accuracy, %")
    axes.plot([0, 100], [0, 100], color="#c0c0c0", linewidth=1)
    for kind, found in arms.items():
        label, color = ARMS[kind]
        confidence = [100 * one["confidence"] for one in found["bins"]]
        right = [100 * one["accuracy"] for one in found["bins"]]
        label = f"{label} (ECE {100 * found['ece']:.1f} %)"
        axes.plot(confidence, right, color=color, marker="o", label=label)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.legend(frameon=False, loc="upper left")
    return figure


def svg(figure: Figure) -> bytes:
    """The bytes of the figure's SVG file: the same for the same figure.

    Text stays text, so that the reader's own fonts show every script. Names with `$` are no
    formulas.
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "diffmix", "text.parse_math": False}
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        # Glyphs are missing in the font that measures the text, not in the reader's.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    # Not pyplot: no windows and no global state.
    from matplotlib.figure import Figure

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
    """Horizontal bars of shares in [0, 1]: from top to bottom, one bar per name and arm."""
    figure = _figure(8.4, 1.1 + 0.16 * (len(arms) + 1) * len(names))
    axes = _axes(figure, 1, 1, 1, xlabel="test accuracy, %")
    thickness = 0.8 / len(arms)
    for number, (kind, shares) in enumerate(arms.items()):
        label, color = ARMS[kind]
        places = np.arange(len(names)) + (number - (len(arms) - 1) / 2) * thickness
        axes.barh(places, 100 * np.array(shares), thickness * 0.92, color=color, label=label)
    axes.set_yticks(range(len(names)), [_cut(name, 40) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(handles, texts, frameon=False, loc="outside upper right", ncols=2)
    return figure


def _cut(name: str, length: int) -> str:
    """A name of at most `length` characters, all of which an SVG can hold."""
    name = _NOT_IN_XML.sub("\ufffd", name)
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _in_order(shares: dict, keys: list) -> list[float]:
    """The shares of `keys`; NaN, which draws no bar, for a missing one."""
    return [shares.get(key, np.nan) for key in keys]


def _arms(accuracy: dict, baseline: dict, key: str) -> dict[str, dict]:
    """Kind of arm -> its figure `key`, without arms that lack it."""
    arms = {"baseline": baseline, "train": accuracy}
    return {kind: found[key] for kind, found in arms.items() if found.get(key)}


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


def _lanes(events: list[dict]) -> list[tuple[str, list[tuple[float, float]], str]]:
    """Name, spans of time and color of each lane, from top to bottom."""

    def spans(kind: str) -> list[tuple[float, float]]:
        return sorted((e["start"], e["end"]) for e in events if e["event"] == kind)

    actors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["event"] == "mix":
            actors[event["actor"]].append((event["start"], event["end"]))
    mixers = sorted(actors.values())
    if len(mixers) > _MOST_MIXERS:
        mixers = [spans("mix")]
    names = ["mixing"]
    if len(mixers) != 1:
        names = [f"mixer {number + 1}" for number in range(len(mixers))]
    found = [
        ("training without mixes", spans("baseline"), ARMS["baseline"][1]),
        ("personalizing", spans("personalize"), _PERSONALIZE_COLOR),
        *((name, busy, _MIX_COLOR) for name, busy in zip(names, mixers, strict=True)),
        ("training with mixes", spans("train"), ARMS["train"][1]),
    ]
    return [lane for lane in found if lane[1]]


def _pool(events: list[dict], clock: Callable[[float], float]) -> Float[np.ndarray, "epochs 2"]:
    """At the end of each epoch: the time, and the number of mixes in the pools of all workers."""
    held: dict[int, int] = {}
    points = []
    for event in sorted((e for e in events if e["event"] == "train"), key=lambda e: e["end"]):
        held[event["rank"]] = event["pool"]
        points.append((clock(event["end"]), sum(held.values())))
    return np.array(points, dtype=float).reshape(-1, 2)
