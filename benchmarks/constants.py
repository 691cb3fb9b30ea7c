"""The constants of docs/measurements/scale.md: what a task, a part, an event and a listing cost.
Some of them need a connected Ray.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from diffmix.config import Config, MixConfig, PlacementConfig
from engine import phases
from engine.mixing import stages
from engine.mixing.store import MixStore, part_name
from engine.results.figures import spans
from engine.testing import SleepingMixer, mix_table, simulated_mix_job, temporary_session

_LISTED = 20_000
_PARTS = 100
_EVENTS = 10_000


def chunks_per_second(chunks: int, most_chunks: int) -> float:
    """Chunks of one tiny mix that go through two mixers and a store, with at most `most_chunks` in
    a task: what a task costs.
    """
    config = Config(
        mix=MixConfig(strategy="real-mix", count=chunks, batch=1),
        placement=PlacementConfig(mixers=(2,), cpus_per_mixer=0.5),
    )
    usual, stages.MAX_CHUNKS = stages.MAX_CHUNKS, most_chunks
    try:
        with temporary_session(config, 100) as session:
            phases.make_mixes(session, simulated_mix_job(session, SleepingMixer(0.0, 100)))
            session.telemetry.collect()
            worked = spans(session.telemetry.events, "mix")
            return steady_rate(worked, max(end for _, end in worked))
    finally:
        stages.MAX_CHUNKS = usual


def steady_rate(worked: list[tuple[float, float]], end: float) -> float:
    """Chunks per second until `end`. It counts from the moment when a quarter of them have begun:
    until then workers still start.
    """
    warm = len(worked) // 4
    return (len(worked) - warm) / (end - worked[warm][0])


def part_seconds(mixes: int, image_bytes: int) -> float:
    """Seconds to write one part durably; parts are written one after the other."""
    images = [np.random.default_rng(i).bytes(image_bytes) for i in range(mixes)]
    table = mix_table(mixes, image=images)
    with tempfile.TemporaryDirectory(prefix="diffmix-benchmark-") as folder:
        store = MixStore(folder)
        start = time.perf_counter()
        for number in range(_PARTS):
            store.write(number, table)
        return (time.perf_counter() - start) / _PARTS


def listing_seconds() -> float:
    """Seconds to find out which parts are stored, for each part."""
    with tempfile.TemporaryDirectory(prefix="diffmix-benchmark-") as folder:
        for number in range(_LISTED):
            Path(folder, part_name(number)).touch()
        start = time.perf_counter()
        MixStore(folder).stored_chunks()
        return (time.perf_counter() - start) / _LISTED


def counting_seconds(mixes: int) -> float:
    """Seconds to count accepted mixes, for each part. Images are not read."""
    table = mix_table(mixes, image=None)
    with tempfile.TemporaryDirectory(prefix="diffmix-benchmark-") as folder:
        store = MixStore(folder)
        for number in range(_PARTS):
            store.write(number, table)
        start = time.perf_counter()
        store.counts()
        return (time.perf_counter() - start) / _PARTS


def events_per_second() -> float:
    """Telemetry events from two workers through the collector into `metrics.jsonl`, a second."""
    with temporary_session(Config(), 100) as session:

        @ray.remote(num_cpus=0.5)
        def send(reporter: object, events: int) -> None:
            for number in range(events):
                reporter.send("mix", actor="mixer", start=0.0, end=1.0, mixes=16, chunk=number)  # type: ignore[attr-defined]

        ray.get([send.remote(session.telemetry.reporter, 1) for _ in range(2)])
        start = time.perf_counter()
        ray.get([send.remote(session.telemetry.reporter, _EVENTS // 2) for _ in range(2)])
        while len(spans(session.telemetry.events, "mix")) < _EVENTS:
            session.telemetry.collect()
        return _EVENTS / (time.perf_counter() - start)
