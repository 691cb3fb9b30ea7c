"""The gate over a whole mix store: score what has no score, decide what is accepted, and keep the
decision as `gate.json`.

Mixers decide by a threshold as they go. A quantile needs all scores, so it is decided here when all
mixes are stored. `diffmix filter` does the same to any store, any number of times. Its decision
then stands over the configuration's until it is run again, and holds for mixes made later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import yaml

from diffmix import gates, images
from diffmix.config import Config, GateConfig, with_absolute_paths
from diffmix.config_check import check
from diffmix.datasets.real import RealSet
from diffmix.devices import inference_device, take_share
from diffmix.errors import UserError
from diffmix.format_version import with_version, without_version
from diffmix.gates import GateRule, quantile_cut
from diffmix.storage import Folder
from diffmix.strategies.mix_spec import SPEC_COLUMNS, MixSpec
from engine.display import make_display
from engine.failures import user_errors
from engine.lease import held
from engine.mixing.stages import configure_ray_data
from engine.mixing.store import MixStore
from engine.placement import cluster
from engine.placement.room import wait_for_room

log = logging.getLogger(__name__)

_RECORD = "gate.json"
_DECIDE = ("threshold", "quantile", "top_k")
"""Options of the group `gate` that decide by scores. The others say how mixes are scored."""


@dataclass(frozen=True)
class Decision:
    """What `gate.json` holds: the gate that a store was filtered by."""

    gate: GateRule
    chunks: int
    """Number of parts that it was decided over; 0 while the filter is not finished."""

    @staticmethod
    def of(store: MixStore) -> Decision | None:
        """The store's decision. None: its mixes were never filtered."""
        if not store.folder.exists(_RECORD):
            return None
        try:
            values = without_version(
                json.loads(store.folder.read(_RECORD)), f"{store.folder.uri}/{_RECORD}"
            )
            rule = values["gate"]
            if "kind" not in rule:  # written when CLIP's was the only gate
                clip = {name: rule.pop(name) for name in ("clip", "prompts")}
                rule = {"kind": "clip", "gate": clip, **rule}
            return Decision(gates.rule_from_json(rule), values["chunks"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{store.folder.uri}/{_RECORD} cannot be read ({error}); delete it and run diffmix "
                "filter again."
            ) from error

    def save(self, store: MixStore) -> None:
        values = {"gate": self.gate.to_json(), "chunks": self.chunks}
        store.folder.write(_RECORD, json.dumps(with_version(values), indent=2).encode())


def gate_of(config: Config, store: MixStore, real: RealSet) -> GateRule | None:
    """The gate of mixes that are still to be made: the store's decision where there is one, else
    the configuration's.
    """
    decision = Decision.of(store)
    if decision is None:
        return gates.make_rule(config.gate, real.superclass, real.class_names)
    kept = decision.gate
    asked = gates.configured(config.gate, real.superclass, real.class_names)
    rule = gates.decision(type(kept.gate), config.gate)
    if asked is not None and (asked, *rule) != (kept.gate, kept.threshold, kept.quantile):
        log.warning(
            "%s stays as diffmix filter decided (%s); run it again to change that.",
            store.folder.uri,
            _described(kept),
        )
    return kept


def _described(rule: GateRule) -> str:
    if rule.quantile is not None:
        return f"quantile {rule.quantile:g}"
    return f"threshold {rule.threshold:g}"


def check_gate(config: Config, real: RealSet) -> None:
    """Raise `UserError` for a gate that cannot be loaded, before any mix is made."""
    if Decision.of(MixStore((Folder(config.out) / "mixes").uri)) is None:
        gate = gates.configured(config.gate, real.superclass, real.class_names)
        if gate is not None:
            gate.check()


def check_streaming(config: Config) -> None:
    """Raise `UserError` where training would draw mixes before a quantile has decided on them."""
    chosen = gates.choose(config.gate)
    if chosen is None or config.run.mode == "staged":
        return
    _, quantile = gates.decision(chosen[1], config.gate)
    if quantile and Decision.of(MixStore((Folder(config.out) / "mixes").uri)) is None:
        raise UserError(
            f"--gate.quantile {quantile:g} needs the scores of all mixes, but an overlapped run "
            "trains while they are made; set --gate.threshold (diffmix preview shows scores) or "
            "--run.mode staged."
        )


def finish_filter(config: Config, store: MixStore) -> None:
    """Resume a `diffmix filter` that was stopped, so that training never sees half a decision."""
    decision = Decision.of(store)
    if decision is not None and decision.chunks == 0 and store.stored_chunks():
        apply_gate(config, store, decision.gate)


def settle(config: Config, store: MixStore, real: RealSet) -> None:
    """Decide over all stored mixes by a quantile, which mixers could not."""
    decision = Decision.of(store)
    if decision is None:
        rule = gates.make_rule(config.gate, real.superclass, real.class_names)
    else:
        rule = decision.gate
    if rule is None or not rule.quantile:
        return
    chunks = len(store.stored_numbers())
    if chunks and (decision is None or decision.chunks != chunks):
        apply_gate(config, store, rule)


def filter_store(config: Config) -> dict:
    """`diffmix filter`: score the mixes of `<out>/mixes` that lack this gate's scores, and decide
    about all of them.

    Gives `stored` and `rejected` (numbers of mixes), `scored` (how many were scored now) and `cut`
    (the lowest accepted score). A stopped call resumes; another threshold or quantile only decides
    again. Raises `UserError` where there are no mixes or no gate is known.
    """
    config = with_absolute_paths(config)
    check(config)
    out = Folder(config.out)
    store = MixStore((out / "mixes").uri)
    if not config.out or not store.stored_chunks():
        raise UserError(
            f"{config.out or 'The run folder'} holds no mixes; set --out to a folder that diffmix "
            "synthesize or run has filled."
        )
    with held(out):
        return _filter(config, out, store)


def _filter(config: Config, out: Folder, store: MixStore) -> dict:
    result = apply_gate(config, store, _asked(config, out, store))
    if out.exists("summary.json"):
        summary = without_version(json.loads(out.read("summary.json")), f"{out.uri}/summary.json")
        summary["plan"] |= {name: result[name] for name in ("stored", "rejected")}
        out.write("summary.json", json.dumps(with_version(summary), indent=2).encode())
    return result


def _asked(config: Config, out: Folder, store: MixStore) -> GateRule:
    """The gate that a filter is to apply. Without one in the options: the gate that the store was
    scored by, with the options' threshold or quantile.
    """
    options = config.gate
    decision = Decision.of(store)
    if gates.choose(options) is None and decision is not None:
        return decision.gate.decided_by(options)
    if gates.choose(options) is None and out.exists("config.yaml"):
        values = without_version(yaml.safe_load(out.read("config.yaml")), f"{out.uri}/config.yaml")
        options = _scored_by(options, values.get("gate") or {})
    superclass, class_names = _classes(config, out, store)
    rule = gates.make_rule(options, superclass, class_names)
    if rule is None:
        raise UserError(
            f"The mixes in {store.folder.uri} were never scored; set --gate.clip to the CLIP that "
            "is to score them, or --gate.classifier."
        )
    return rule


def _scored_by(options: GateConfig, run: dict) -> GateConfig:
    """The options with the gate of a run's `config.yaml`, but with their own decision."""
    known = {field.name for field in dataclasses.fields(GateConfig)}.difference(_DECIDE)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in run.items()
        if name in known
    }
    return dataclasses.replace(options, **values)


def _classes(config: Config, out: Folder, store: MixStore) -> tuple[str, list[str]]:
    """(superclass, class names) of a store. The names are empty for parts without a plan.json."""
    names = store.class_names if store.folder.exists("plan.json") else []
    superclass = config.data.superclass
    if superclass is None and out.exists("data/train.arrow"):
        superclass = RealSet.open((out / "data").uri + "/train.arrow").superclass
    return superclass or "object", names


def apply_gate(config: Config, store: MixStore, rule: GateRule) -> dict:
    """Make the store's `score` and `accepted` what the gate says, part by part and each atomically;
    see `filter_store`.

    Starts or joins a cluster only where parts must be written.
    """
    chunks = sorted(store.stored_chunks())
    parts = store.scores(chunks)
    unscored = [
        chunk
        for chunk in chunks
        if parts[chunk].scorer != rule.scorer or np.isnan(parts[chunk].score).any()
    ]
    rule = dataclasses.replace(rule, cut=rule.threshold)
    if unscored:
        # A model that does not load is one sentence here, and the death of an actor there.
        rule.load("cpu")
    Decision(rule, 0).save(store)
    scored = 0
    if unscored:
        total = sum(len(parts[chunk].score) for chunk in unscored)
        display = make_display(config.run.display, store.folder.uri)
        place = config.placement
        share = {"cpus": place.cpus_per_mixer, "gpus": place.gpus_per_mixer}
        arguments = {"store": store, "rule": rule, **share}
        with contextlib.closing(display):
            for rows in _over_parts(config, unscored, _ScorePart, arguments):
                scored += sum(rows)
                display.on_events([{"event": "score", "scored": scored, "mixes": total}])
        parts |= store.scores(unscored)
    if rule.quantile is not None:
        scores = np.concatenate([parts[chunk].score for chunk in chunks])
        rule = dataclasses.replace(rule, cut=quantile_cut(scores, rule.quantile))
    wanted = {chunk: rule.accepts(parts[chunk].score) for chunk in chunks}
    wrong = [chunk for chunk in chunks if not np.array_equal(wanted[chunk], parts[chunk].accepted)]
    for _ in _over_parts(config, wrong, decide_part, {"store": store, "rule": rule}):
        pass
    Decision(rule, len(chunks)).save(store)
    accepted = sum(int(part.sum()) for part in wanted.values())
    total = sum(len(part) for part in wanted.values())
    return {"stored": accepted, "rejected": total - accepted, "scored": scored, "cut": rule.cut}


def _over_parts(
    config: Config, chunks: list[int], work: Any, arguments: dict
) -> Iterator[list[int]]:
    """Run `work` on each part and yield the `rows` of what is done. An actor's class runs on the
    mixers' share of the cluster.
    """
    if not chunks:
        return
    cluster.connect(config)
    place = config.placement
    options: dict[str, Any] = {"num_cpus": 0.25, "fn_kwargs": arguments}
    if isinstance(work, type):
        wait_for_room(config, mixes=True)
        least, most = place.mixers[0], place.mixers[-1]
        actors = ray.data.ActorPoolStrategy(
            min_size=least, max_size=most, initial_size=least, max_tasks_in_flight_per_actor=2
        )
        resources = {"num_gpus": place.gpus_per_mixer, "num_cpus": place.cpus_per_mixer}
        options = {"fn_constructor_kwargs": arguments, "compute": actors, **resources}
    configure_ray_data(place)
    numbers = ray.data.from_items(
        [{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks)
    )
    done = numbers.map_batches(work, batch_size=1, batch_format="pyarrow", **options)
    with user_errors():
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield batch["rows"].to_pylist()


class _ScorePart:
    """Holds one gate's model for a whole filter. A call scores a part's mixes and writes the part
    again. Closed with Ray's actor pool.
    """

    def __init__(self, store: MixStore, rule: GateRule, cpus: float, gpus: float):
        take_share(cpus, gpus)
        self.store, self.rule = store, rule
        self.scorer = rule.load(inference_device())

    def __call__(self, row: pa.Table) -> pa.Table:
        chunk = row["chunk"][0].as_py()
        mixes = self.store.read(chunk)
        specs = [MixSpec(**spec) for spec in mixes.select(SPEC_COLUMNS).to_pylist()]
        decoded = [images.decode(image) for image in mixes["image"].to_pylist()]
        score = self.scorer.score(decoded, specs)
        mixes = _with(mixes, "score", pa.array(score, pa.float32()))
        mixes = _with(mixes, "accepted", pa.array(self.rule.accepts(score)))
        self.store.write(chunk, mixes, self.rule.scorer)
        return pa.table({"rows": [len(mixes)]})


def decide_part(row: pa.Table, store: MixStore, rule: GateRule) -> pa.Table:
    """Write a scored part again with what the gate accepts of it."""
    chunk = row["chunk"][0].as_py()
    mixes = store.read(chunk)
    accepted = rule.accepts(mixes["score"].to_numpy())
    store.write(chunk, _with(mixes, "accepted", pa.array(accepted)), rule.scorer)
    return pa.table({"rows": [len(mixes)]})


def _with(mixes: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return mixes.set_column(mixes.column_names.index(name), name, column)
