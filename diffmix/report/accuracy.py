"""The charts of accuracy: seeds, classes, groups, confusion, reliability. Each function gives None
if there is nothing to show.

`accuracy` and `baseline` are a run's figures with and without mixes, as in `summary.json`. Shares
are in [0, 1].
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from diffmix.datasets.class_names import spoken
from diffmix.report.chart import ARMS, Chart, ColorScale, Table
from diffmix.report.intervals import of_mean

_MOST_CLASSES = 40
"""Of more classes, those that changed most are drawn; the table has all."""
_GAIN, _LOSS = "#3b82c4", "#c75450"
_MOST_CELLS = 4000
_CELL = "datum.class + ' taken for ' + datum['taken for'] + ': ' + datum.images"


def per_seed(seeds: dict) -> Chart | None:
    """Accuracy of each seed, and the mean with its 95 % interval. `seeds` is {seed: {arm: share}}
    with the arms `accuracy` and `baseline`.
    """
    arms = {"baseline": ARMS["baseline"], "accuracy": ARMS["train"]}
    rows, means = [], []
    for arm, (name, _) in arms.items():
        values = [(seed, 100 * found[arm]) for seed, found in seeds.items() if arm in found]
        rows += [{"seed": seed, "accuracy": value, "arm": name} for seed, value in values]
        if len(values) > 1:
            mean, half = of_mean([value for _, value in values])
            means.append({"arm": name, "mean": mean, "low": mean - half, "high": mean + half})
    if not rows:
        return None
    scale = ColorScale(dict(arms.values()))
    y = {"field": "arm", "type": "nominal", "title": None, "sort": list(scale.colors)}
    x = {"type": "quantitative", "title": "test accuracy, %", "scale": {"zero": False}}
    color = scale.encoding("arm", legend=False)
    spec = {
        "height": 44 * len(scale.colors),
        "layer": [
            {
                "data": {"values": means},
                "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.5},
                "encoding": {
                    "x": {**x, "field": "low"},
                    "x2": {"field": "high"},
                    "y": y,
                    "color": color,
                },
            },
            {
                "data": {"values": means},
                "mark": {"type": "tick", "thickness": 3, "size": 26},
                "encoding": {"x": {**x, "field": "mean"}, "y": y, "color": color},
            },
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "size": 60, "tooltip": True},
                "encoding": {"x": {**x, "field": "accuracy"}, "y": y, "color": color},
            },
        ],
    }
    gains = [100 * (f["accuracy"] - f["baseline"]) for f in seeds.values() if len(f) == 2]
    texts = [f"{m['arm']} {m['mean']:.1f} % ({m['low']:.1f} to {m['high']:.1f})" for m in means]
    return Chart(
        key="seeds",
        title="Accuracy by seed",
        text="Dots are seeds. The bar is the 95 % interval of their mean (Student's t).",
        spec=spec,
        table=Table(
            ("seed", "arm", "accuracy, %"), [[r["seed"], r["arm"], r["accuracy"]] for r in rows]
        ),
        described=f"{'; '.join([*texts, *_paired(gains)])}.",
    )


def _paired(gains: list[float]) -> list[str]:
    """The mean gain of several seeds, in percentage points."""
    if len(gains) < 2:
        return []
    mean, half = of_mean(gains)
    return [f"gain, paired by seed, {mean:+.1f} points ({mean - half:+.1f} to {mean + half:+.1f})"]


def class_accuracy(accuracy: dict, baseline: dict, class_names: list[str]) -> Chart | None:
    """What each class gained by mixes, sorted; without a baseline, each class's accuracy."""
    arms = _arms(accuracy, baseline, "per_class")
    if not arms:
        return None
    values = {}
    for kind, shares in arms.items():
        values[kind] = {int(label): 100 * share for label, share in shares.items()}
    labels = sorted({label for shares in values.values() for label in shares})
    both = len(values) == 2
    first = values.get("baseline", {})
    last = values.get("train", first)
    rows: list[dict[str, Any]] = []
    for label in labels:
        row: dict[str, Any] = {"class": spoken(class_names[label]), "with": last.get(label)}
        row["without"] = first.get(label) if both else None
        known = row["with"] is not None and row["without"] is not None
        row["gain"] = row["with"] - row["without"] if known else None
        rows.append(row)
    key = "gain" if both else "with"
    rows = [row for row in rows if row[key] is not None]
    rows.sort(key=lambda row: (-row[key], row["class"]))
    half = _MOST_CLASSES // 2
    drawn = rows if len(rows) <= _MOST_CLASSES else [*rows[:half], *rows[-half:]]
    title = "gain, percentage points" if both else "test accuracy, %"
    # Two classes may be spoken alike: the row is drawn by its number.
    drawn = [{**row, "row": number, "up": row[key] >= 0} for number, row in enumerate(drawn)]
    spec = {
        "data": {"values": drawn},
        "height": 18 * len(drawn),
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "y": {
                "field": "row",
                "type": "ordinal",
                "sort": None,
                "title": None,
                "axis": {"labelExpr": _names([row["class"] for row in drawn]), "labelLimit": 220},
            },
            "x": {"field": key, "type": "quantitative", "title": title},
            "color": {
                "field": "up",
                "type": "nominal",
                "legend": None,
                "scale": {"domain": [True, False], "range": [_GAIN, _LOSS]},
            },
            "tooltip": [
                {"field": "class"},
                *(
                    {"field": name, "type": "quantitative", "format": ".1f"}
                    for name in (("with", "without", "gain") if both else ("with",))
                ),
            ],
        },
    }
    shown = "" if len(drawn) == len(rows) else f" Of {len(rows)} classes, the {half} at each end."
    better = sum(row[key] > 0 for row in rows)
    described = f"{better} of {len(rows)} classes gained." if both else f"{len(rows)} classes."
    return Chart(
        key="classes",
        title="Gain by class" if both else "Accuracy by class",
        text=f"On the test set, sorted.{shown}",
        spec=spec,
        table=Table(
            ("class", "with mixes, %", "without mixes, %", "gain, points"),
            [[row["class"], row["with"], row["without"], row["gain"]] for row in rows],
        ),
        described=described,
    )


def group_accuracy(accuracy: dict, baseline: dict) -> Chart | None:
    """Test accuracy of each group, with and without mixes."""
    arms = _arms(accuracy, baseline, "per_group")
    names = sorted({name for shares in arms.values() for name in shares})
    if not names:
        return None
    rows = []
    for name in names:
        for kind, shares in arms.items():
            if name in shares:
                rows.append({"group": name, "accuracy": 100 * shares[name], "arm": ARMS[kind][0]})
    scale = ColorScale(dict(ARMS.values()))
    spec = {
        "data": {"values": rows},
        "height": 28 * len(names),
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "y": {"field": "group", "type": "nominal", "title": None, "sort": None},
            "yOffset": {"field": "arm", "sort": list(scale.colors)},
            "x": {
                "field": "accuracy",
                "type": "quantitative",
                "title": "test accuracy, %",
                "scale": {"domain": [0, 100]},
            },
            "color": scale.encoding("arm"),
        },
    }
    worst = min(rows, key=lambda row: row["accuracy"])
    return Chart(
        key="groups",
        title="Accuracy by group",
        text="On the test set.",
        spec=spec,
        table=Table(
            ("group", "arm", "accuracy, %"), [[r["group"], r["arm"], r["accuracy"]] for r in rows]
        ),
        described=f"Lowest: {worst['group']} {worst['arm']}, {worst['accuracy']:.1f} %.",
    )


def confusion_matrix(confusion: list[list[int]] | None, class_names: list[str]) -> Chart | None:
    """Which class was taken for which class. `confusion` is the matrix of `metrics.confusion`."""
    if not confusion:
        return None
    counts = np.array(confusion)
    of_class = np.maximum(counts.sum(1), 1)
    true, taken = np.nonzero(counts)
    names = [spoken(name) for name in class_names]
    rows: list[dict[str, Any]] = []
    for i, j in zip(true.tolist(), taken.tolist(), strict=True):
        number = int(counts[i, j])
        row: dict[str, Any] = {
            "i": i,
            "j": j,
            "class": names[i],
            "taken for": names[j],
            "images": number,
        }
        rows.append({**row, "share": 100 * number / int(of_class[i])})
    wrong = sorted((row for row in rows if row["i"] != row["j"]), key=lambda row: -row["images"])
    drawn = [*wrong[:_MOST_CELLS], *(row for row in rows if row["i"] == row["j"])]
    axis = {"labelExpr": _names(names), "labelLimit": 140, "labelOverlap": True}
    place = {"type": "ordinal", "scale": {"domain": list(range(len(names)))}, "axis": axis}
    spec = {
        "data": {"values": drawn},
        "transform": [{"calculate": _CELL, "as": "says"}],
        "height": int(np.clip(16 * len(names), 160, 640)),
        "mark": {"type": "rect", "tooltip": True, "cursor": "pointer"},
        "encoding": {
            "x": {**place, "field": "j", "title": "taken for"},
            "y": {**place, "field": "i", "title": "class"},
            "description": {"field": "says"},
            # Opacity, so that the page's ground is the end of the scale in light and dark.
            "color": {"value": _GAIN},
            "opacity": {
                "field": "share",
                "type": "quantitative",
                "scale": {"domain": [0, 100], "range": [0.2, 1]},
                "legend": None,
            },
            "tooltip": [{"field": name} for name in ("class", "taken for", "images", "share")],
        },
    }
    largest = [f"{r['class']} for {r['taken for']} ({r['images']})" for r in wrong[:3]]
    return Chart(
        key="confusion",
        title="Confusion",
        text="On the test set: which class was taken for which. Choose a cell, or a row of its "
        "table, to see the images behind it.",
        spec=spec,
        table=Table(
            ("class", "taken for", "images", "% of class"),
            [[r["class"], r["taken for"], r["images"], round(r["share"], 1)] for r in wrong],
        ),
        described=f"Most often taken: {', '.join(largest)}." if largest else "No image was wrong.",
    )


def reliability(accuracy: dict, baseline: dict) -> Chart | None:
    """Accuracy against confidence. On the diagonal, confidence equals accuracy."""
    arms = _arms(accuracy, baseline, "calibration")
    rows, errors = [], []
    for kind, found in arms.items():
        for one in found.get("bins", []):
            values = {"confidence": 100 * one["confidence"], "accuracy": 100 * one["accuracy"]}
            rows.append({**values, "arm": ARMS[kind][0]})
        errors.append(f"{ARMS[kind][0]} {100 * found['ece']:.1f} %")
    if not rows:
        return None
    scale = ColorScale(dict(ARMS.values()))

    def axis(name: str) -> dict:
        domain = {"domain": [0, 100]}
        return {"field": name, "type": "quantitative", "title": f"{name}, %", "scale": domain}

    both = {"x": axis("confidence"), "y": axis("accuracy")}
    diagonal = [{"confidence": 0, "accuracy": 0}, {"confidence": 100, "accuracy": 100}]
    spec = {
        "height": 280,
        "layer": [
            {
                "data": {"values": diagonal},
                "mark": {"type": "line", "color": "#999", "strokeDash": [4, 4]},
                "encoding": both,
            },
            {
                "data": {"values": rows},
                "mark": {"type": "line", "point": True, "tooltip": True},
                "encoding": {**both, "color": scale.encoding("arm")},
            },
        ],
    }
    return Chart(
        key="reliability",
        title="Reliability",
        text="On the test set: how often the classifier is right when it is so sure. Training on "
        "soft labels can make it too modest.",
        spec=spec,
        table=Table(
            ("arm", "confidence, %", "accuracy, %"),
            [[r["arm"], r["confidence"], r["accuracy"]] for r in rows],
        ),
        described=f"Calibration error (ECE): {', '.join(errors)}.",
    )


def _arms(accuracy: dict, baseline: dict, key: str) -> dict[str, dict]:
    """Kind of arm -> its figure `key`, without arms that lack it."""
    arms = {"baseline": baseline, "train": accuracy}
    return {kind: found[key] for kind, found in arms.items() if found.get(key)}


def _names(names: list[str]) -> str:
    """A Vega expression that gives an axis's names by number. Names are written as JSON strings,
    which Vega's expressions read as literals.
    """
    return f"{json.dumps(names, ensure_ascii=True)}[datum.value]"
