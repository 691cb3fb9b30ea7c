"""`diffmix compare`: several runs on one page. Needs no cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import yaml

from diffmix.datasets.class_names import spoken
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.format_version import without_version
from diffmix.report.chart import Chart, Table
from diffmix.report.headline import headline, percent
from diffmix.report.html import Beside, Report, Section, render_report
from diffmix.report.intervals import of_mean, of_share
from diffmix.storage import Folder
from engine.mixing.store import MixStore
from engine.results.gallery import PREDICTIONS_FILE
from engine.run_folder import read_json

PAGE = "compare.html"
MOST_MIXES = 40
_Z = 1.959963984540054
_SAME_ANYWAY = ("out", "run.display", "run.verbose", "run.address", "run.listeners")


@dataclass(frozen=True)
class Run:
    """One of the runs."""

    name: str
    out: Folder

    @cached_property
    def summary(self) -> dict:
        return read_json(self.out, "summary.json")

    @cached_property
    def options(self) -> dict[str, object]:
        """Its configuration by dotted name."""
        if not self.out.exists("config.yaml"):
            return {}
        file = f"{self.out.uri}/config.yaml"
        return dict(_dotted(without_version(yaml.safe_load(self.out.read("config.yaml")), file)))

    @cached_property
    def store(self) -> MixStore:
        return MixStore((self.out / "mixes").uri)

    @cached_property
    def right(self) -> tuple[str, np.ndarray] | None:
        """The test set's fingerprint, and for each of its images whether it was recognized."""
        classifier, data = self.out / "classifier", self.out / "data"
        if not (classifier.exists(PREDICTIONS_FILE) and data.exists("test.arrow")):
            return None
        test = RealSet.open(f"{data.uri}/test.arrow")
        predicted = np.array(json.loads(classifier.read(PREDICTIONS_FILE)))
        return (test.fingerprint, predicted == test.labels) if len(predicted) == len(test) else None


def compare(uris: Sequence[str], to: str) -> str:
    """Write the page about the runs in `uris` into the folder `to`, and give its path.

    Raises `UserError` for fewer than two runs, and for a folder without a finished run.
    """
    if len(uris) < 2:
        raise UserError("diffmix compare takes two or more run folders: diffmix compare A B.")
    runs = [Run(name, Folder(uri)) for name, uri in zip(_names(uris), uris, strict=True)]
    for run in runs:
        if not run.out.exists("summary.json"):
            raise UserError(
                f"{run.out.uri} holds no finished run (no summary.json); finish it with diffmix "
                "run, or leave it out."
            )
    page = Report(
        title=f"Diff-Mix: {len(runs)} runs",
        summary={},
        charts=[_accuracies(runs)],
        sections=[
            Section(key="figures", title="Figures", text="", table=_figures(runs)),
            Section(key="pairs", title="Differences", text=_PAIRED, table=_pairs(runs)),
            Section(
                key="options",
                title="Options that differ",
                text="All others are the same.",
                table=_options(runs),
            ),
        ],
        beside=_beside(runs),
    )
    Folder(to).create().write(PAGE, render_report(page).encode())
    return f"{Folder(to).uri}/{PAGE}"


_PAIRED = (
    "Each run against the first, in percentage points, with 95 % intervals. Over seeds: Student's "
    "t of the seeds that both have. Over test images: of the same images, with one training each; "
    "it says nothing of how much training varies."
)


def _names(uris: Sequence[str]) -> list[str]:
    """The shortest ends of paths that tell the runs apart."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{uri} ({number + 1})" for number, uri in enumerate(uris)]


def _dotted(values: dict, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _dotted(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _accuracies(runs: Sequence[Run]) -> Chart:
    """Test accuracy of each run with its interval: over seeds, or of a finite test set."""
    rows = []
    for run in runs:
        result, seeds = run.summary.get("accuracy", {}), run.summary.get("seeds", {})
        values = [100 * found["accuracy"] for found in seeds.values() if "accuracy" in found]
        if len(values) > 1:
            mean, half = of_mean(values)
            low, high, how = mean - half, mean + half, f"{len(values)} seeds"
        elif "top1" in result:
            mean = 100 * result["top1"]
            images = result.get("images")
            low, high = of_share(result["top1"], images) if images else (mean / 100, mean / 100)
            low, high, how = 100 * low, 100 * high, f"{images or '?'} test images"
        else:
            continue
        row = {"run": run.name, "accuracy": mean, "low": low, "high": high, "interval": how}
        rows.append(row)
    y = {"field": "run", "type": "nominal", "sort": None, "title": None}
    x: dict[str, Any] = {"type": "quantitative", "scale": {"zero": False}}
    x["title"] = "test accuracy, %"
    spec = {
        "data": {"values": rows},
        "height": 36 * max(len(rows), 1),
        "encoding": {"y": y},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.5, "color": "#3b82c4"},
                "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "tooltip": True},
                "encoding": {"x": {**x, "field": "accuracy"}, "color": {"value": "#3b82c4"}},
            },
        ],
    }
    texts = [f"{r['run']} {r['accuracy']:.1f} % ({r['low']:.1f} to {r['high']:.1f})" for r in rows]
    return Chart(
        key="accuracy",
        title="Accuracy with mixes",
        text="Bars are 95 % intervals: over seeds where there are several, else of the test set.",
        spec=spec,
        table=Table(
            ("run", "accuracy, %", "low", "high", "interval of"), [list(r.values()) for r in rows]
        ),
        described=f"{'; '.join(texts)}.",
    )


def _figures(runs: Sequence[Run]) -> Table:
    """The headline of each run, and its GPU-hours; a column for each."""
    columns = []
    for run in runs:
        found = dict(headline(run.summary))
        for phase, hours in run.summary.get("gpu_hours", {}).items():
            found[f"GPU-hours: {phase}"] = f"{hours:.3g}"
        if usd := run.summary.get("spent", {}).get("usd"):
            found["cost of all nodes, $"] = f"{usd:.2f}"
        columns.append(found)
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    return Table(("", *(run.name for run in runs)), rows)


def _pairs(runs: Sequence[Run]) -> Table:
    """Each run's difference from the first one, paired by seed and by test image."""
    first, rows = runs[0], []
    for run in runs[1:]:
        rows.append([f"{run.name} - {first.name}", _by_seed(first, run), _by_image(first, run)])
    return Table(("runs", "over seeds", "over test images"), rows)


def _by_seed(first: Run, other: Run) -> str:
    one, two = first.summary.get("seeds", {}), other.summary.get("seeds", {})
    common = [seed for seed in one if "accuracy" in one[seed] and "accuracy" in two.get(seed, {})]
    if len(common) < 2:
        return "no two common seeds"
    mean, half = of_mean([100 * (two[s]["accuracy"] - one[s]["accuracy"]) for s in common])
    return f"{_interval(mean, half)}, {len(common)} seeds"


def _by_image(first: Run, other: Run) -> str:
    if first.right is None or other.right is None:
        return "predictions were not kept"
    if first.right[0] != other.right[0]:
        return "other test images"
    change = 100 * (other.right[1].astype(float) - first.right[1].astype(float))
    half = _Z * float(change.std(ddof=1)) / np.sqrt(len(change))
    return f"{_interval(float(change.mean()), half)}, {len(change)} images"


def _interval(mean: float, half: float) -> str:
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def _options(runs: Sequence[Run]) -> Table:
    names = sorted({name for run in runs for name in run.options} - {*_SAME_ANYWAY})
    rows = []
    for name in names:
        values = [run.options.get(name) for run in runs]
        if any(value != values[0] for value in values):
            rows.append([name, *(_written(value) for value in values)])
    return Table(("option", *(run.name for run in runs)), rows)


def _written(value: object) -> str:
    if isinstance(value, list):
        return " ".join(str(one) for one in value)
    return "" if value is None else str(value)


def _beside(runs: Sequence[Run]) -> Beside | None:
    """Mixes of the same number, source and target that all the runs hold; None without any."""
    held = [run for run in runs if run.store.stored_chunks()]
    if len(held) < 2 or any(run.store.class_names != held[0].store.class_names for run in held):
        return None
    specs: list[dict[tuple, tuple[int, int]]] = []
    for run in held:
        found = {}
        for chunk in sorted(run.store.stored_chunks()):
            table = run.store.read(chunk, ["mix_id", "source_id", "target_label", "source_label"])
            for row, mix in enumerate(table.to_pylist()):
                found[tuple(mix.values())] = (chunk, row)
        specs.append(found)
    common = sorted(set.intersection(*(set(found) for found in specs)))
    if not common:
        return None
    places = np.linspace(0, len(common) - 1, min(len(common), MOST_MIXES)).round().astype(int)
    real = _train_images(held[0])
    names = [spoken(name) for name in held[0].store.class_names]
    rows: list[tuple[str, list[bytes | None]]] = []
    for place in places:
        mix_id, source_id, target, source = key = common[place]
        files: list[bytes | None] = [_source(real, source_id)]
        for run, found in zip(held, specs, strict=True):
            chunk, row = found[key]
            files.append(run.store.read(chunk, ["image"])["image"][row].as_py())
        rows.append((f"mix {mix_id}: {names[source]} → {names[target]}", files))
    text = f"{len(rows)} of {len(common)} mixes that have the same number, source and target."
    return Beside(text=text, columns=["real image", *(run.name for run in held)], rows=rows)


def _train_images(run: Run) -> RealSet | None:
    data = run.out / "data"
    return RealSet.open(f"{data.uri}/train.arrow") if data.exists("train.arrow") else None


def _source(real: RealSet | None, source_id: str) -> bytes | None:
    if real is None or source_id not in set(real.image_ids):
        return None
    return real.image_bytes(real.index_of(source_id))


def describe(uris: Sequence[str]) -> str:
    """The accuracies as one line for the terminal."""
    found = []
    for name, uri in zip(_names(uris), uris, strict=True):
        top1 = read_json(Folder(uri), "summary.json").get("accuracy", {}).get("top1")
        found.append(f"{name} {percent(top1) if top1 is not None else 'without accuracy'}")
    return ", ".join(found)
