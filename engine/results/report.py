"""A finished run as images and one page: `report/mixes.png` and `report.html`."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from diffmix import images
from diffmix.config import Config, images_of
from diffmix.datasets.class_names import spoken
from diffmix.datasets.prepare import Prepared, prepare
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.options.markers import numbers
from diffmix.plan import MixPlan
from diffmix.report import accuracy, timeline
from diffmix.report.chart import Chart, Table
from diffmix.report.contact_sheet import Mixed, Row, mix_sheet
from diffmix.report.html import Report, Section, png, render_report
from diffmix.report.intervals import of_share
from diffmix.storage import Folder
from diffmix.strategies import Strategy
from engine.mixing.mix_source import ComposedPlan, MixSource, find_mix_source
from engine.mixing.store import MixStore
from engine.results.cost import IDLE, cost
from engine.results.gallery import make_gallery
from engine.run_folder import config_yaml, read_json
from engine.telemetry import read_events

ROWS, MIXES_PER_ROW = 6, 5
"""Size of the contact sheet."""
_MOST_CHUNKS = 4096
"""Of more stored chunks, evenly spaced ones are looked at."""
_MOST_SOURCES = 500
"""Source images of a large set that are looked at, to find those with the most mixes to show."""


def write_report(
    config: Config,
    out: Folder,
    data: Prepared,
    summary: dict,
    events: list[dict],
    source: MixSource | None,
) -> str:
    """Write the report of what there is so far into the run folder. Gives the path of its contact
    sheet, or of the page where there is no mix to show.

    `summary` is what `summary.json` holds, `events` what `metrics.jsonl` holds; `source` None is a
    run without mixes. Reads only the parts of the store that are shown. The same store gives the
    same images.
    """
    class_names = data.train.class_names
    rows = choose_rows(config, data.train, source) if source else []
    title = (
        f"Diff-Mix: {len(class_names)} classes of {data.train.superclass}, {config.mix.strategy}"
    )
    page = Report(
        title=title,
        summary=summary,
        notes=_notes(summary),
        class_names=[spoken(name) for name in class_names],
        charts=make_charts(summary, events, class_names, _confusion(out / "classifier")),
        gallery=make_gallery(config, out, data, source),
        sections=[*_hours_section(config, summary, events), *_skipped_section(out)],
        config=config_yaml(config),
    )
    out.write("report.html", render_report(page).encode())
    if source is None or not rows:
        return f"{out.uri}/report.html"
    folder = out / "report"
    folder.write("mixes.png", png(mix_sheet(rows, _sheet_title(source.plan(config).strategy))))
    return f"{folder.uri}/mixes.png"


def report(config: Config) -> str:
    """Write the report of a finished run again, and give what `write_report` gives. Needs no
    cluster.

    Raises `UserError` where the run folder holds no finished run.
    """
    out = Folder(config.out) if config.out else None
    if out is None or not out.exists("summary.json"):
        raise UserError(
            f"{config.out or 'The run folder'} holds no finished run (no summary.json); set --out "
            "to one, or finish it with diffmix run."
        )
    summary, data = read_json(out, "summary.json"), prepare(images_of(config), out.uri)
    source = find_mix_source(out, data.train) if out.exists("mixes") else None
    return write_report(config, out, data, summary, read_events(out), source)


def _confusion(classifier: Folder) -> list[list[int]] | None:
    if not classifier.exists("confusion.json"):
        return None
    return json.loads(classifier.read("confusion.json"))


def make_charts(
    summary: dict,
    events: list[dict],
    class_names: list[str],
    confusion: list[list[int]] | None = None,
) -> list[Chart]:
    """The charts for which the run has figures. `confusion` is the matrix of the classifier with
    mixes, its rows the true classes.
    """
    arms = summary.get("accuracy", {}), summary.get("baseline", {})
    found = [
        timeline.timeline(events),
        timeline.mixes_over_time(events),
        *timeline.training_curves(events),
        accuracy.group_accuracy(*arms),
        accuracy.class_accuracy(*arms, class_names),
        accuracy.confusion_matrix(confusion, class_names),
        accuracy.reliability(*arms),
    ]
    return [chart for chart in found if chart is not None]


def _notes(summary: dict) -> list[str]:
    """How sure the accuracies are."""
    found = []
    for arm, name in (("baseline", "without mixes"), ("accuracy", "with mixes")):
        result = summary.get(arm, {})
        if result.get("images") and "top1" in result:
            low, high = of_share(result["top1"], result["images"])
            found.append(f"{100 * low:.1f} to {100 * high:.1f} % {name}")
    if not found:
        return []
    images = max(summary.get(arm, {}).get("images", 0) for arm in ("accuracy", "baseline"))
    return [
        f"A test set of {images} images alone leaves each accuracy uncertain (95 %, Wilson): "
        f"{', '.join(found)}. Several seeds (--run.seeds) show how much training varies."
    ]


_PHASES = {
    "personalize": "personalizing",
    "mix": "mixing",
    "train": "training with mixes",
    "baseline": "training without mixes",
    IDLE: "nodes without work",
}


def _hours_section(config: Config, summary: dict, events: list[dict]) -> list[Section]:
    """GPU-hours by phase, and what they cost where that was measured."""
    hours = summary.get("gpu_hours", {})
    prices = numbers(config.limits.prices)
    dollars = cost(events, prices, config.placement.separate)
    if not hours and dollars is None:
        return []
    text = "GPU-hours: Ray's GPUs times the seconds that workers held them, over all attempts."
    if dollars is None:
        text += " A run with --limits.prices also measures what its nodes cost."
        rows: list[list[object]] = [[_PHASES.get(p, p), round(hours[p], 4)] for p in hours]
        rows.append(["together", round(sum(hours.values()), 4)])
        columns = ["phase", "GPU-hours"]
    else:
        named = ", ".join(f"{label} {price:g}" for label, price in prices.items())
        text += (
            f" Cost: all nodes that were up, in dollars an hour of a node ({named}), shared out to "
            "the phases that held GPUs at the time."
        )
        columns = ["phase", "GPU-hours", "cost, $"]
        rows = []
        for phase in dict.fromkeys([*hours, *dollars]):
            if phase == IDLE and round(dollars[IDLE], 2) == 0:
                continue
            row = [_PHASES.get(phase, phase), round(hours.get(phase, 0.0), 4)]
            rows.append([*row, round(dollars.get(phase, 0.0), 2)])
        sums = sum(hours.values()), sum(dollars.values())
        rows.append(["together", round(sums[0], 4), round(sums[1], 2)])
    title = "GPU-hours" if dollars is None else "GPU-hours and cost"
    return [Section(key="gpu-hours", title=title, text=text, table=Table(columns, rows))]


def _skipped_section(out: Folder) -> list[Section]:
    """What was left out of the data, and why."""
    if not (out / "data").exists("data.json"):
        return []
    skipped = read_json(out / "data", "data.json").get("skipped", [])
    if not skipped:
        return []
    rows = [[one["image_id"], one["reason"]] for one in skipped]
    text = f"{len(rows)} images of the data set could not be used."
    table = Table(("image", "why"), rows)
    return [Section(key="left-out", title="Left out of the data", text=text, table=table)]


def choose_rows(config: Config, real: RealSet, source: MixSource) -> list[Row]:
    """A few stored and accepted mixes, spread over classes and strengths: rows of one source image,
    or of one class from noise.
    """
    plan, store = source.plan(config), source.store
    chunks = store.stored_numbers()
    chunks = chunks[chunks < plan.num_chunks]
    chunks = chunks[:: -(-len(chunks) // _MOST_CHUNKS) or 1]
    parts = [plan.chunk_ids(int(chunk)) for chunk in chunks]
    ids_of = np.concatenate([np.empty(0, np.int64), *parts])
    order = np.argsort(ids_of)
    available = ids_of[order]
    chunk_of = np.repeat(chunks, [len(part) for part in parts])[order]
    stored = _StoredMixes(store, available, chunk_of)
    shown: list[list[dict]] = []
    for ids in _groups(plan, available):
        made = stored.first_accepted(ids)
        if made:
            shown.append(made)
        if len(shown) == ROWS:
            break
    return [_row(made, real) for made in sorted(shown, key=lambda made: made[0]["source_label"])]


def _groups(plan: MixPlan | ComposedPlan, available: np.ndarray) -> list[list[int]]:
    """Mix ids by row of the sheet, each row's and the rows themselves in order of preference."""
    columns = plan.columns(available)
    key = columns["target_label"] if plan.from_noise else columns["source"]
    keys = np.unique(key)
    if len(keys) > _MOST_SOURCES:
        keys = np.sort(np.random.default_rng(0).choice(keys, _MOST_SOURCES, replace=False))
    groups = []
    for value in keys:
        members = np.flatnonzero(key == value)
        source, target = columns["source_label"][members], columns["target_label"][members]
        strength = np.round(columns["strength"][members].astype(float), 1)
        between = source != target
        if between.any():  # a mix within a class shows nothing that an eye could check
            members, target, strength = members[between], target[between], strength[between]
        order = _spread(list(zip(target.tolist(), strength.tolist(), strict=True)))
        shown_targets = min(len(set(target.tolist())), MIXES_PER_ROW)
        groups.append((int(source[0]), shown_targets, available[members][order].tolist()))
    groups.sort(key=lambda group: -group[1])
    seen: Counter[int] = Counter()
    ranked = []
    for label, _, ids in groups:  # the best image of every class before any class's second
        ranked.append((seen[label], ids))
        seen[label] += 1
    return [ids for _, ids in sorted(ranked, key=lambda pair: pair[0])]


def _spread(mixes: list[tuple[int, float]]) -> list[int]:
    """An order of (target, strength) in which the first few differ: always what was shown least."""
    targets: Counter[int] = Counter()
    strengths: Counter[float] = Counter()
    left = list(range(len(mixes)))
    order: list[int] = []
    while left and len(order) < 4 * MIXES_PER_ROW:
        best = min(left, key=lambda i: (targets[mixes[i][0]], strengths[mixes[i][1]], i))
        left.remove(best)
        order.append(best)
        targets[mixes[best][0]] += 1
        strengths[mixes[best][1]] += 1
    return order


def _row(made: list[dict], real: RealSet) -> Row:
    """A row of stored mixes, strength rising."""
    names, first = real.class_names, made[0]
    source = None
    # The mixes of a composed store may come from images that this run does not have.
    if first["source_id"] and first["source_id"] in real.image_ids:
        source = images.decode(real.image_bytes(real.index_of(first["source_id"])))
    mixes = []
    for mix in sorted(made, key=lambda mix: round(mix["strength"], 2)):
        image, target = images.decode(mix["image"]), names[mix["target_label"]]
        mixes.append(Mixed(image, target, mix["strength"], mix["score"]))
    return Row(source, names[first["source_label"]], mixes)


def _sheet_title(strategy: Strategy | None) -> str:
    """The contact sheet's title for the mixes of a strategy; None: of a composed store."""
    if strategy is None:
        return "Mixes that were put together; left the real image where the run has it"
    if strategy.from_noise:
        return "Images made from noise"
    if strategy.target == "same":
        return "Left a real image, right of it the same image redrawn as its own class"
    return "Left a real image, right of it the same image translated into other classes"


class _StoredMixes:
    """Reads mixes from the store, each part at most once. Owned by one call of `choose_rows`."""

    def __init__(self, store: MixStore, available: np.ndarray, chunk_of: np.ndarray):
        """`available` are mix ids, rising; `chunk_of` the chunk of each."""
        self.store, self.available, self.chunk_of = store, available, chunk_of
        self._chunks: dict[int, dict[int, dict]] = {}

    def first_accepted(self, ids: list[int]) -> list[dict]:
        """The first few of `ids` that the gate let through, as rows of the store."""
        found: list[dict] = []
        for mix_id in ids:
            place = int(np.searchsorted(self.available, mix_id))
            mix = self._chunk(int(self.chunk_of[place])).get(mix_id)
            if mix is not None and mix["accepted"]:
                found.append(mix)
            if len(found) == MIXES_PER_ROW:
                break
        return found

    def _chunk(self, chunk: int) -> dict[int, dict]:
        if chunk not in self._chunks:
            self._chunks[chunk] = {mix["mix_id"]: mix for mix in self.store.read(chunk).to_pylist()}
        return self._chunks[chunk]
