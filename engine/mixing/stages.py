"""Ray Data's part: chunk numbers in, finished and stored mixes out.

One row in is one block and one task: a few chunks, which the mixer makes and stores one by one.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.data
from PIL.Image import Image

from diffmix import images
from diffmix.config import Config, PlacementConfig
from diffmix.datasets.real import RealSet
from diffmix.devices import inference_device, limit_threads
from diffmix.errors import UserError
from diffmix.gates.gate import Gate, Scorer
from diffmix.plan import MixPlan, MixSpec, make_plan
from diffmix.storage import Folder
from engine.mixing.store import SCHEMA, MixStore
from engine.placement.cluster import MIX_LABEL
from engine.telemetry import Reporter

_SPEC = pa.struct([SCHEMA.field(name) for name in MixSpec._fields])
_CHUNK = pa.schema(
    [("chunk", pa.int64()), ("specs", pa.list_(_SPEC)), ("sources", pa.list_(pa.binary()))]
)


class MixesImages(Protocol):
    """What a mixer actor holds: `diffmix.generator.mixer.Mixer`, or a stand-in with a simulated
    cost in benchmarks. One call at a time.
    """

    def mix(self, specs: list[MixSpec], sources: list[bytes | None]) -> list[Image]: ...


MOST_CHUNKS = 16
"""Chunks in one task, at most: how many mixes reach training at once (docs/scale.md)."""
TASKS_PER_MIXER = 4
"""A task holds at most this part of a mixer's fair share of what is left, so that all mixers end at
about the same time.
"""


def build_mixer(job: MixJob) -> MixesImages:
    """The real mixer: a personalized pipeline on this actor's device."""
    from diffmix.generator.mixer import Mixer

    limit_threads(job.config.placement.cpus_per_mixer)
    real = RealSet.open(job.real)
    concept = Folder(job.concept).fetch() if job.concept else None
    config = job.config
    return Mixer(
        config.model,
        config.mix,
        real.class_names,
        real.superclass,
        concept,
        config.personalize.prompts[0],
    )


@dataclass(frozen=True)
class MixJob:
    """What every stage needs to know; small, and the same for the whole stream."""

    config: Config
    real: str
    """Path or URI of the training `RealSet`."""
    concept: str | None
    """Path or URI of the concept folder; None for strategies of the base model alone."""
    store: str
    """Path or URI of the mix store."""
    reporter: Reporter
    build: Callable[[MixJob], MixesImages] = build_mixer
    """Makes what an actor holds, on the actor's node."""
    gate: Gate | None = None
    """Scores each chunk in the actor that made it, and accepts what its cut lets through; None
    accepts all.
    """


@lru_cache(maxsize=4)
def _real(path: str) -> RealSet:
    return RealSet.open(path)


@lru_cache(maxsize=4)
def _plan(real: str, settings: bytes) -> MixPlan:
    """The plan, built once in each worker process. `settings` is the pickled configuration, so that
    it can be a key.
    """
    return make_plan(pickle.loads(settings), _real(real))


def stream(job: MixJob, chunks: np.ndarray, pass_on: bool = True) -> ray.data.Dataset:
    """A lazy data set of the store's columns: makes the given chunks (int [n]), stores each, and
    passes it on.

    Without `pass_on` only `chunk` comes out, once for each chunk, and the images stay in the store.
    It is meant to be consumed once. Blocks come in the order in which mixers finish.
    """
    place = job.config.placement
    least, most = place.mixers[0], place.mixers[-1]
    actors = ray.data.ActorPoolStrategy(
        min_size=least,
        max_size=most,
        initial_size=least,
        # One chunk is on the device, the one before it is being encoded and stored, the next has
        # arrived. A pool grows only from 1.75 tasks for each call that an actor can run, which
        # takes one more.
        max_tasks_in_flight_per_actor=4,
        max_concurrent_calls_per_actor=2,
        enable_true_multi_threading=True,
    )
    set_context(place)
    groups = group_chunks(chunks, most)
    numbers = ray.put(groups)
    whole = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    # Reading asks for one CPU, as Ray's own first stage does, so that the two become one task.
    return (
        ray.data.range(len(groups), override_num_blocks=max(1, len(groups)))
        .map_batches(read_chunks, fn_kwargs={"job": job, "groups": numbers}, **whole)
        .map_batches(
            MixActor,
            fn_constructor_kwargs={"job": job, "pass_on": pass_on},
            compute=actors,
            num_gpus=place.gpus_per_mixer,
            num_cpus=place.cpus_per_mixer,
            **{**whole, "batch_size": 1},
        )
    )


def set_context(place: PlacementConfig) -> None:
    """Ray Data's settings in this process, for what is started next."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options = execution_options(place)
    # Ray's pool counts one crash at an actor's start as the end of the job; a spot node's death
    # must not be that. Few, because an error of the settings comes back each time.
    context.max_consecutive_actor_init_deaths = 3
    context.raise_original_map_exception = True  # Ray's own wrapper forgets what it wrapped
    for name in ("exceptions", "_internal.execution.streaming_executor_state"):
        # What they print is raised too, and is not, as they say, to be reported to Ray.
        logging.getLogger(f"ray.data.{name}").disabled = True


def execution_options(place: PlacementConfig) -> ray.data.ExecutionOptions:
    """Where the stream runs. The label has to be the whole stream's: Ray Data counts the resources
    of the nodes that carry it.
    """
    return ray.data.ExecutionOptions(label_selector=MIX_LABEL if place.separate else None)


def group_chunks(chunks: np.ndarray, mixers: int) -> list[np.ndarray]:
    """The chunks of each task, in order: one at first, so that training soon has mixes, more, and
    at the end one again.

    Ray's driver needs some milliseconds for a task, however large: with one chunk in each it could
    not keep up with many mixers, so a task soon holds as many as each mixer has had before it (of
    few mixers: a sixteenth of what all have had, for training waits for whole tasks). With large
    ones to the end, mixers would wait for the last.
    """
    share = TASKS_PER_MIXER * mixers
    most = min(MOST_CHUNKS, len(chunks) // (2 * share))
    groups, start = [], 0
    while start < len(chunks):
        size = min(most, start // max(mixers, MOST_CHUNKS), (len(chunks) - start) // share)
        groups.append(chunks[start : start + max(1, size)])
        start += len(groups[-1])
    return groups


def read_chunks(rows: pa.Table, job: MixJob, groups: object) -> pa.Table:
    """Task number -> a row for each of its chunks: `chunk`, its specs, and its source images'
    bytes.

    A chunk stays one row until it is mixed, because Ray Data would fill up a short chunk's batch
    from the next one.
    """
    numbers = ray.get(groups) if isinstance(groups, ray.ObjectRef) else groups
    plan, real = _plan(job.real, pickle.dumps(job.config)), _real(job.real)
    found = []
    for row in rows["id"].to_pylist():
        for chunk in numbers[row].tolist():  # type: ignore[index]
            specs = plan.chunk(chunk)
            sources = [
                real.image_bytes(real.index_of(spec.source_id)) if spec.source_id else None
                for spec in specs
            ]
            found.append(
                {"chunk": chunk, "specs": [spec._asdict() for spec in specs], "sources": sources}
            )
    return pa.Table.from_pylist(found, schema=_CHUNK)


class MixActor:
    """Holds one personalized pipeline on one device for the whole stream; closed with Ray's actor
    pool.

    Ray calls it from two threads: while one chunk's images are being encoded and stored, the next
    chunk is on the device.
    """

    def __init__(self, job: MixJob, pass_on: bool):
        self.job, self.pass_on = job, pass_on
        self.store = MixStore(job.store)
        self.device = threading.Lock()
        context = ray.get_runtime_context()
        self.name = f"mixer-{context.get_actor_id()[:12]}"
        self.restarted = context.was_current_actor_reconstructed
        started = time.time()
        self.unusable: UserError | None = None
        try:
            self.mixer = job.build(job)
            self.scorer = Scorer(job.gate, inference_device()) if job.gate else None
        # raised by the first call: of an actor that dies at its start Ray keeps no more than a text
        except UserError as error:
            self.unusable = error
        job.reporter.send(
            "mixer_ready",
            actor=self.name,
            node=context.get_node_id(),
            start=started,
            end=time.time(),
        )

    def __call__(self, row: pa.Table) -> pa.Table:
        """A row of `read_chunks` -> the chunk's mixes (columns of the store), or its number alone;
        the part is written then.
        """
        if self.unusable is not None:
            raise self.unusable
        chunk, specs, sources = (
            row["chunk"][0].as_py(),
            row["specs"][0].as_py(),
            row["sources"][0].as_py(),
        )
        if self.restarted and self.store.holds(
            chunk
        ):  # Ray repeats the whole task in which its predecessor died
            return self._passed(chunk, self.store.read(chunk).replace_schema_metadata())
        with self.device:
            start = time.time()
            pictures = self.mixer.mix([MixSpec(**spec) for spec in specs], sources)
            end = time.time()
        mix = self.job.config.mix
        score, accepted = self._judge(pictures)
        made = [
            {
                **spec,
                "image": images.encode(picture, mix.image_format, mix.image_quality),
                "score": value,
                "accepted": ok,
            }
            for spec, picture, value, ok in zip(specs, pictures, score, accepted, strict=True)
        ]
        mixes = pa.Table.from_pylist(made, schema=SCHEMA)
        self.store.write(chunk, mixes, self.job.gate.scorer if self.job.gate else None)
        self.job.reporter.send(
            "mix", actor=self.name, start=start, end=end, mixes=len(made), chunk=chunk
        )
        return self._passed(chunk, mixes)

    def _passed(self, chunk: int, mixes: pa.Table) -> pa.Table:
        return mixes if self.pass_on else pa.table({"chunk": [chunk]})

    def _judge(self, pictures: list[Image]) -> tuple[list[float | None], list[bool]]:
        """The pictures' scores and whether they are accepted: no scores and all of them without a
        gate.
        """
        if self.scorer is None or self.job.gate is None:
            return [None] * len(pictures), [True] * len(pictures)
        score = self.scorer.score(pictures)
        return score.tolist(), self.job.gate.accepts(score).tolist()
