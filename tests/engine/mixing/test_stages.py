"""The stream with stand-ins for mixers; the real ones are in tests/e2e.

Covers `engine/mixing/job.py` and `engine/mixer/mixer_actor.py` too.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from diffmix.config import Config, MixConfig, PlacementConfig, TrainConfig
from diffmix.plan import make_plan
from engine import phases
from engine.mixing import stages
from engine.mixing.job import MixJob
from engine.mixing.stages import (
    MAX_CHUNKS,
    TASKS_PER_MIXER,
    Groups,
    group_chunks,
    read_chunks,
    stream,
)
from engine.mixing.store import MixStore
from engine.telemetry import Reporter
from engine.testing import GatheringMixer, SleepingMixer, simulated_mix_job, temporary_session

needs_ray = pytest.mark.usefixtures("cluster")


def config(**placement) -> Config:
    return Config(
        mix=MixConfig(count=60, batch=2, strategy="real-mix"),
        train=TrainConfig(epochs=1, batch_size=4),
        placement=PlacementConfig(**{"cpus_per_mixer": 0.5, **placement}),
    )


def test_groups_hold_every_chunk_once_in_order():
    for chunks, mixers in ((1, 1), (7, 3), (500, 2), (5000, 4), (3, 64)):
        groups = group_chunks(np.arange(100, 100 + chunks), mixers)
        assert np.concatenate(groups).tolist() == list(range(100, 100 + chunks))
        sizes = [len(group) for group in groups]
        assert sizes[0] == sizes[-1] == 1
        assert max(sizes) <= MAX_CHUNKS
        assert max(sizes) <= max(1, chunks / (2 * TASKS_PER_MIXER * mixers))
    assert len(group_chunks(np.arange(5000), 4)) < 5000 / 8
    assert len(group_chunks(np.arange(0), 4)) == 0


def test_groups_hold_no_more_than_their_bytes():
    """5 MB photographs in chunks of 16: three chunks are 240 MB."""
    groups = group_chunks(np.arange(5000), 4, chunk_bytes=16 * 5e6)
    assert max(len(group) for group in groups) == 3
    assert [len(group) for group in group_chunks(np.arange(50), 1, 1e9)] == [1] * 50


def test_a_task_has_a_row_for_each_of_its_chunks(tiny_real):
    job = MixJob(
        config=config(), real_path=tiny_real.path, concept=None, store="", reporter=Reporter("none")
    )
    groups = Groups(np.array([9, 4, 2, 7]), np.array([0, 1]))
    (rows,) = read_chunks(pa.table({"id": [1]}), job, groups)
    assert rows["chunk"].to_pylist() == [4, 2, 7]
    plan = make_plan(job.config, tiny_real)
    for specs, chunk in zip(rows["specs"].to_pylist(), (4, 2, 7), strict=True):
        assert [spec["mix_id"] for spec in specs] == plan.chunk_ids(chunk).tolist()
    sources = [source for row in rows["sources"].to_pylist() for source in row]
    ids = [spec["source_id"] for row in rows["specs"].to_pylist() for spec in row]
    assert sources == [tiny_real.image_bytes(tiny_real.index_of(name)) for name in ids]


def test_a_task_with_large_images_passes_them_on_in_parts(tiny_real, monkeypatch):
    job = MixJob(
        config=config(), real_path=tiny_real.path, concept=None, store="", reporter=Reporter("none")
    )
    monkeypatch.setattr(stages, "_BLOCK_BYTES", 1)
    groups = Groups(np.array([4, 2, 7]), np.array([0]))
    tables = list(read_chunks(pa.table({"id": [0]}), job, groups))
    assert [table["chunk"].to_pylist() for table in tables] == [[4], [2], [7]]


def test_no_task_is_read_after_a_limit(tiny_real):
    class Stopped(Reporter):
        def is_stopped(self) -> bool:
            return True

    job = MixJob(
        config=config(),
        real_path=tiny_real.path,
        concept=None,
        store="",
        reporter=Stopped("none"),
        is_limited=True,
    )
    groups = Groups(np.array([4, 2, 7]), np.array([0]))
    (table,) = read_chunks(pa.table({"id": [0]}), job, groups)
    assert len(table) == 0
    (table,) = read_chunks(pa.table({"id": [0]}), replace(job, is_limited=False), groups)
    assert len(table) == 3


def test_the_plan_of_an_extended_store_is_read_with_its_sizes(tiny_real):
    job = MixJob(
        config=config(),
        real_path=tiny_real.path,
        concept=None,
        store="",
        reporter=Reporter("none"),
        sizes=(5,),
    )
    groups = Groups(np.array([2, 3]), np.array([0]))
    (rows,) = read_chunks(pa.table({"id": [0]}), job, groups)
    ids = [[spec["mix_id"] for spec in row] for row in rows["specs"].to_pylist()]
    assert ids == [[4], [5, 6]]


@needs_ray
@pytest.mark.parametrize("pass_on", [True, False])
def test_what_is_passed_on_is_in_the_store(pass_on):
    with temporary_session(config(), 30, count=40) as session:
        job = simulated_mix_job(session, SleepingMixer(0.0, 9))
        mixes = stream(job, np.array([0, 3, 5, 11]), pass_on)
        passed = list(mixes.iter_batches(batch_size=None, batch_format="pyarrow"))
        store = MixStore(job.store)
        assert store.stored_chunks() == {0, 3, 5, 11}
        rows = [row for table in passed for row in table.to_pylist()]
        if pass_on:
            rows.sort(key=lambda row: row["mix_id"])
            assert rows == [row for table in store.tables() for row in table.to_pylist()]
        else:
            assert sorted(row["chunk"] for row in rows) == [0, 3, 5, 11]


@needs_ray
def test_pool_of_mixers_grows(tmp_path):
    with temporary_session(config(mixers=(1, 3)), 30, count=40) as session:
        build = GatheringMixer(str(tmp_path), 3, SleepingMixer(0.0, 9))
        job = simulated_mix_job(session, build)
        phases.make_mixes(session, job)  # no chunk ends before three mixers have one
        assert len(list(tmp_path.iterdir())) == 3
        assert len(MixStore(job.store).stored_chunks()) == 30


@needs_ray
def test_stream_of_nothing():
    with temporary_session(config(), 30, count=40) as session:
        job = simulated_mix_job(session, SleepingMixer(0.0, 9))
        assert stream(job, np.arange(0)).count() == 0
