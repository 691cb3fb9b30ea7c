"""The constants of docs/scale.md: what a task, a part, an event and a listing cost. Ray must be
connected for some of them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from benchmarks.simulated import SleepingMixer, mix_job, session
from diffmix.config import Config, MixConfig, PlacementConfig
from engine import phases
from engine.mixing import stages
from engine.mixing.store import SCHEMA, MixStore, part_name
from engine.results.figures import spans

_LISTED = 20_000
_PARTS = 100
_EVENTS = 10_000


def chunks_per_second(chunks: int, most_chunks: int) -> float:
    """Chunks of one tiny mix that two mixers and a store can be fed with, at most `most_chunks` in
    a task: what a task costs.
    """
    config = Config(
        mix=MixConfig(strategy="real-mix", count=chunks, batch=1),
        placement=PlacementConfig(mixers=(2,), cpus_per_mixer=0.5),
    )
    usual, stages.MOST_CHUNKS = stages.MOST_CHUNKS, most_chunks
    try:
        with session(config, 100) as opened:
            phases.make_mixes(opened, mix_job(opened, SleepingMixer(0.0, 100)))
            opened.telemetry.collect()
            worked = spans(opened.telemetry.events, "mix")
            return steady_rate(worked, max(end for _, end in worked))
    finally:
        stages.MOST_CHUNKS = usual


def steady_rate(worked: list[tuple[float, float]], end: float) -> float:
    """Chunks per second to `end`, from when a quarter of them have begun: until then workers still
    start.
    """
    warm = len(worked) // 4
    return (len(worked) - warm) / (end - worked[warm][0])


def part_seconds(mixes: int, image_bytes: int) -> float:
    """To write one part durably, one after the other."""
    rows = {
        "mix_id": range(mixes),
        "image": [np.random.default_rng(i).bytes(image_bytes) for i in range(mixes)],
    }
    nulls = {name: [None] * mixes for name in SCHEMA.names if name not in rows}
    table = pa.table({**rows, **nulls}).select(SCHEMA.names).cast(SCHEMA)
    with tempfile.TemporaryDirectory(prefix="diffmix-benchmark-") as folder:
        store = MixStore(folder)
        start = time.perf_counter()
        for number in range(_PARTS):
            store.write(number, table)
        return (time.perf_counter() - start) / _PARTS


def listing_seconds() -> float:
    """To find out what is stored, a part."""
    with tempfile.TemporaryDirectory(prefix="diffmix-benchmark-") as folder:
        for number in range(_LISTED):
            Path(folder, part_name(number)).touch()
        start = time.perf_counter()
        MixStore(folder).stored_chunks()
        return (time.perf_counter() - start) / _LISTED


def counting_seconds(mixes: int) -> float:
    """To count what the gate let through, a part; images are not read."""
    rows = {name: [None] * mixes for name in SCHEMA.names} | {"accepted": [True] * mixes}
    table = pa.table(rows).cast(SCHEMA)
    with tempfile.TemporaryDirectory(prefix="diffmix-benchmark-") as folder:
        store = MixStore(folder)
        for number in range(_PARTS):
            store.write(number, table)
        start = time.perf_counter()
        store.counts()
        return (time.perf_counter() - start) / _PARTS


def events_per_second() -> float:
    """Telemetry events through the collector and into `metrics.jsonl`, from two workers."""
    with session(Config(), 100) as opened:

        @ray.remote(num_cpus=0.5)
        def send(reporter: object, events: int) -> None:
            for number in range(events):
                reporter.send("mix", actor="mixer", start=0.0, end=1.0, mixes=16, chunk=number)  # type: ignore[attr-defined]

        ray.get([send.remote(opened.telemetry.reporter, 1) for _ in range(2)])
        start = time.perf_counter()
        ray.get([send.remote(opened.telemetry.reporter, _EVENTS // 2) for _ in range(2)])
        while len(spans(opened.telemetry.events, "mix")) < _EVENTS:
            opened.telemetry.collect()
        return _EVENTS / (time.perf_counter() - start)
