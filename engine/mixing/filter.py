"""The gate over a whole mix store: scores what has no score, decides what is accepted, and
remembers it as `gate.json`.

A threshold is decided by the mixers as they go. A quantile needs all scores, so it is decided here
when all mixes are there. `diffmix filter` does the same to any store, as often as one likes; its
decision then stands over the configuration's until it is run again, and holds for mixes that are
made later.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import yaml

from diffmix import images
from diffmix.config import Config
from diffmix.config_check import check
from diffmix.datasets.real import RealSet
from diffmix.devices import inference_device, limit_threads
from diffmix.errors import UserError
from diffmix.format_version import with_version, without_version
from diffmix.gates.clip import check_clip
from diffmix.gates.gate import Gate, Scorer, make_gate, quantile_cut
from diffmix.storage import Folder
from engine.failures import user_errors
from engine.mixing.stages import configure_ray_data
from engine.mixing.store import MixStore
from engine.placement import cluster
from engine.placement.room import check_room
from engine.progress import Display

log = logging.getLogger(__name__)

_RECORD = "gate.json"


@dataclass(frozen=True)
class Decision:
    """What `gate.json` holds: the gate that a store was filtered by."""

    gate: Gate
    chunks: int
    """Number of parts that it was decided over; 0 while that is still going on."""

    @staticmethod
    def of(store: MixStore) -> Decision | None:
        """The store's, None where its mixes were never filtered."""
        if not store.folder.exists(_RECORD):
            return None
        try:
            values = without_version(
                json.loads(store.folder.read(_RECORD)), f"{store.folder.uri}/{_RECORD}"
            )
            return Decision(
                Gate(**{**values["gate"], "prompts": tuple(values["gate"]["prompts"])}),
                values["chunks"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{store.folder.uri}/{_RECORD} cannot be read ({error}); delete it and run diffmix filter again."
            ) from error

    def save(self, store: MixStore) -> None:
        store.folder.write(_RECORD, json.dumps(with_version(asdict(self)), indent=2).encode())


def gate_of(config: Config, store: MixStore, superclass: str) -> Gate | None:
    """The gate for mixes that are still to be made: the store's decision where there is one, else
    the configuration's.
    """
    decision = Decision.of(store)
    if decision is None:
        return make_gate(config.gate, superclass)
    kept, asked = decision.gate, config.gate
    rule = (None, asked.quantile) if asked.threshold is None else (asked.threshold, None)
    if asked.clip is not None and (asked.clip, *rule) != (kept.clip, kept.threshold, kept.quantile):
        log.warning(
            "%s stays as diffmix filter decided (%s); run it again to change that.",
            store.folder.uri,
            _rule(kept),
        )
    return kept


def _rule(gate: Gate) -> str:
    return (
        f"quantile {gate.quantile:g}"
        if gate.quantile is not None
        else f"threshold {gate.threshold:g}"
    )


def check_gate(config: Config) -> None:
    """Raise `UserError` for a gate that cannot be had or cannot do what the run asks of it, before
    anything is made.
    """
    gate = config.gate
    if gate.clip is None:
        return
    if Decision.of(MixStore((Folder(config.out) / "mixes").uri)) is None:
        check_clip(gate.clip)
        make_gate(gate, "superclass")


def check_streaming(config: Config) -> None:
    """Raise `UserError` where training would draw from mixes that a quantile has yet to decide
    about.
    """
    gate = config.gate
    if (
        gate.clip is None
        or gate.threshold is not None
        or gate.quantile == 0
        or config.run.mode == "staged"
    ):
        return
    if Decision.of(MixStore((Folder(config.out) / "mixes").uri)) is None:
        raise UserError(
            f"--gate.quantile {gate.quantile:g} needs the scores of all mixes, but an overlapped run trains while they are made; "
            "set --gate.threshold (diffmix preview shows scores) or --run.mode staged."
        )


def finish_filter(config: Config, store: MixStore) -> None:
    """Go on with a `diffmix filter` that was stopped, so that training never sees half a decision."""
    decision = Decision.of(store)
    if decision is not None and decision.chunks == 0 and store.stored_chunks():
        apply_gate(config, store, decision.gate)


def settle(config: Config, store: MixStore, superclass: str) -> None:
    """Decide what mixers could not, a quantile, over all stored mixes."""
    decision = Decision.of(store)
    gate = decision.gate if decision else make_gate(config.gate, superclass)
    chunks = len(store.stored_chunks())
    if (
        gate is not None
        and gate.quantile
        and chunks
        and (decision is None or decision.chunks != chunks)
    ):
        apply_gate(config, store, gate)


def filter_store(config: Config) -> dict:
    """`diffmix filter`: score the mixes of `<out>/mixes` that lack this gate's scores, and decide
    about all of them.

    Gives `stored` and `rejected` (numbers of mixes), `scored` (how many were scored now) and `cut`
    (the least accepted score). A stopped call goes on where it was; another threshold or quantile
    only decides again. Raises `UserError` where there are no mixes or no CLIP is known.
    """
    check(config)
    out = Folder(config.out)
    store = MixStore((out / "mixes").uri)
    if not config.out or not store.stored_chunks():
        raise UserError(
            f"{config.out or 'The run folder'} holds no mixes; set --out to a folder that diffmix synthesize or run has filled."
        )
    gate = _asked(config, out, store)
    result = apply_gate(config, store, gate)
    if out.exists("summary.json"):
        summary = without_version(json.loads(out.read("summary.json")), f"{out.uri}/summary.json")
        summary["plan"] |= {name: result[name] for name in ("stored", "rejected")}
        out.write("summary.json", json.dumps(with_version(summary), indent=2).encode())
    return result


def _asked(config: Config, out: Folder, store: MixStore) -> Gate:
    """The gate that a filter is to apply: without `gate.clip`, the CLIP and the prompts that the
    store was scored with.
    """
    asked = config.gate
    decision = Decision.of(store)
    if asked.clip is None and decision is not None:
        quantile = asked.quantile if asked.threshold is None else None
        return replace(
            decision.gate, threshold=asked.threshold, quantile=quantile, cut=asked.threshold
        )
    if asked.clip is None and out.exists("config.yaml"):
        values = without_version(yaml.safe_load(out.read("config.yaml")), f"{out.uri}/config.yaml")
        run = values.get("gate") or {}
        asked = replace(asked, clip=run.get("clip"), prompts=run.get("prompts", asked.prompts))
    if asked.clip is None:
        raise UserError(
            f"The mixes in {store.folder.uri} were never scored; set --gate.clip to the CLIP that is to score them."
        )
    superclass = (
        config.data.superclass or RealSet.open((out / "data").uri + "/train.arrow").superclass
    )
    gate = make_gate(asked, superclass)
    assert gate is not None
    return gate


def apply_gate(config: Config, store: MixStore, gate: Gate) -> dict:
    """Make the store's `score` and `accepted` what the gate says, part by part and each atomically;
    see `filter_store`.

    Starts or joins a cluster only where parts have to be written.
    """
    chunks = sorted(store.stored_chunks())
    parts = store.scores(chunks)
    unscored = [
        chunk
        for chunk in chunks
        if parts[chunk].scorer != gate.scorer or np.isnan(parts[chunk].score).any()
    ]
    gate = replace(gate, cut=gate.threshold)
    if unscored:
        Scorer(gate)  # a CLIP that does not load is one sentence here, and an actor's death there
    Decision(gate, 0).save(store)
    scored = 0
    if unscored:
        total = sum(len(parts[chunk].score) for chunk in unscored)
        display = Display()
        for rows in _over_parts(
            config,
            unscored,
            _ScorePart,
            {"store": store, "gate": gate, "cpus": config.placement.cpus_per_mixer},
        ):
            scored += sum(rows)
            display.on_events([{"event": "score", "scored": scored, "mixes": total}])
        parts |= store.scores(unscored)
    if gate.quantile is not None:
        gate = replace(
            gate,
            cut=quantile_cut(
                np.concatenate([parts[chunk].score for chunk in chunks]), gate.quantile
            ),
        )
    wrong = [
        chunk
        for chunk in chunks
        if not np.array_equal(gate.accepts(parts[chunk].score), parts[chunk].accepted)
    ]
    for _ in _over_parts(config, wrong, decide_part, {"store": store, "gate": gate}):
        pass
    Decision(gate, len(chunks)).save(store)
    accepted = sum(int(gate.accepts(parts[chunk].score).sum()) for chunk in chunks)
    total = sum(len(parts[chunk].score) for chunk in chunks)
    return {"stored": accepted, "rejected": total - accepted, "scored": scored, "cut": gate.cut}


def _over_parts(
    config: Config, chunks: list[int], work: Any, arguments: dict
) -> Iterator[list[int]]:
    """Run `work` on each part, on the mixers' share of the cluster where it is an actor's class;
    yields the `rows` of what is done.
    """
    if not chunks:
        return
    cluster.connect(config)
    place = config.placement
    options: dict[str, Any] = {"num_cpus": 0.25, "fn_kwargs": arguments}
    if isinstance(work, type):
        check_room(config, mixes=True)
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
    """Holds one CLIP for a whole filter; scores a part's mixes and writes the part again. Closed
    with Ray's actor pool.
    """

    def __init__(self, store: MixStore, gate: Gate, cpus: float):
        limit_threads(cpus)
        self.store, self.gate = store, gate
        self.scorer = Scorer(gate, inference_device())

    def __call__(self, row: pa.Table) -> pa.Table:
        chunk = row["chunk"][0].as_py()
        mixes = self.store.read(chunk)
        score = self.scorer.score([images.decode(image) for image in mixes["image"].to_pylist()])
        mixes = _with(mixes, "score", pa.array(score, pa.float32()))
        self.store.write(
            chunk, _with(mixes, "accepted", pa.array(self.gate.accepts(score))), self.gate.scorer
        )
        return pa.table({"rows": [len(mixes)]})


def decide_part(row: pa.Table, store: MixStore, gate: Gate) -> pa.Table:
    """Write a scored part again with what the gate accepts of it."""
    chunk = row["chunk"][0].as_py()
    mixes = store.read(chunk)
    score = mixes["score"].to_numpy()
    store.write(chunk, _with(mixes, "accepted", pa.array(gate.accepts(score))), gate.scorer)
    return pa.table({"rows": [len(mixes)]})


def _with(mixes: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return mixes.set_column(mixes.column_names.index(name), name, column)
