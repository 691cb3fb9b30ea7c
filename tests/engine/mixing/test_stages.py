"""The stream with stand-ins for mixers; the real ones are in tests/e2e."""

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.simulated import Ready, SleepingMixer, mix_job, session
from diffmix.config import Config, MixConfig, PlacementConfig, TrainConfig
from diffmix.plan import make_plan
from engine import phases
from engine.mixing.stages import MOST_CHUNKS, TASKS_PER_MIXER, group_chunks, read_chunks, stream
from engine.mixing.store import MixStore

pytestmark = pytest.mark.usefixtures("cluster")

DEADLINE = 120.0


def config(**placement) -> Config:
    return Config(
        mix=MixConfig(count=60, batch=2, strategy="real-mix"),
        train=TrainConfig(epochs=1, batch_size=4),
        placement=PlacementConfig(**{"cpus_per_mixer": 0.5, **placement}),
    )


@dataclass(frozen=True)
class WaitsFor:
    """A mixer that leaves a file in `folder` when it is built, and whose chunks end when `files`
    files are there.
    """

    folder: str
    files: int

    def __call__(self, job):
        Path(self.folder, uuid.uuid4().hex).touch()
        return self

    def mix(self, specs, sources):
        end = time.monotonic() + DEADLINE
        while len(list(Path(self.folder).iterdir())) < self.files:
            assert time.monotonic() < end, (
                f"never more than {len(list(Path(self.folder).iterdir()))} of {self.files}"
            )
            Event().wait(0.05)  # other processes' files have no event
        return [Ready(b"image %d" % spec.mix_id) for spec in specs]


def test_groups_hold_every_chunk_once_in_order():
    for chunks, mixers in ((1, 1), (7, 3), (500, 2), (5000, 4), (3, 64)):
        groups = group_chunks(np.arange(100, 100 + chunks), mixers)
        assert np.concatenate(groups).tolist() == list(range(100, 100 + chunks))
        sizes = [len(group) for group in groups]
        assert sizes[0] == sizes[-1] == 1
        assert max(sizes) <= MOST_CHUNKS
        assert max(sizes) <= max(1, chunks / (2 * TASKS_PER_MIXER * mixers))
    assert len(group_chunks(np.arange(5000), 4)) < 5000 / 8
    assert group_chunks(np.arange(0), 4) == []


def test_a_task_has_a_row_for_each_of_its_chunks():
    with session(config(), 30, images=40) as opened:
        job = mix_job(opened, SleepingMixer(0.0, 9))
        rows = read_chunks(pa.table({"id": [1]}), job, [np.array([9]), np.array([4, 2, 7])])
        assert rows["chunk"].to_pylist() == [4, 2, 7]
        plan = make_plan(opened.config, opened.data.train)
        assert [[spec["mix_id"] for spec in specs] for specs in rows["specs"].to_pylist()] == [
            plan.chunk_ids(i).tolist() for i in (4, 2, 7)
        ]


@pytest.mark.parametrize("pass_on", [True, False])
def test_what_is_passed_on_is_in_the_store(pass_on):
    with session(config(), 30, images=40) as opened:
        job = mix_job(opened, SleepingMixer(0.0, 9))
        passed = list(
            stream(job, np.array([0, 3, 5, 11]), pass_on).iter_batches(
                batch_size=None, batch_format="pyarrow"
            )
        )
        store = MixStore(job.store)
        assert store.stored_chunks() == {0, 3, 5, 11}
        if pass_on:
            rows = sorted(
                (row for table in passed for row in table.to_pylist()),
                key=lambda row: row["mix_id"],
            )
            assert rows == [row for table in store.tables() for row in table.to_pylist()]
        else:
            assert sorted(number for table in passed for number in table["chunk"].to_pylist()) == [
                0,
                3,
                5,
                11,
            ]


def test_pool_of_mixers_grows(tmp_path):
    with session(config(mixers=(1, 3)), 30, images=40) as opened:
        job = mix_job(opened, WaitsFor(str(tmp_path), 3))
        phases.make_mixes(opened, job)  # no chunk ends before there are three mixers
        assert len(list(tmp_path.iterdir())) == 3
        assert len(MixStore(job.store).stored_chunks()) == 30


def test_stream_of_nothing():
    with session(config(), 30, images=40) as opened:
        assert stream(mix_job(opened, SleepingMixer(0.0, 9)), np.arange(0)).count() == 0
