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
from engine import phases
from engine.stages import MOST_CHUNKS, TASKS_PER_MIXER, group_chunks, read_chunks, store_chunks, stream
from engine.store import SCHEMA, MixStore

pytestmark = pytest.mark.usefixtures("cluster")

DEADLINE = 120.0


def config(**placement) -> Config:
    made = Config(mix=MixConfig(count=60, batch=2, strategy="real-mix"), train=TrainConfig(epochs=1, batch_size=4))
    made.placement = PlacementConfig(**{"cpus_per_mixer": 0.5, **placement})
    return made


@dataclass(frozen=True)
class WaitsFor:
    """A mixer that leaves a file in `folder` when it is built, and whose chunks end when `files` files are there."""

    folder: str
    files: int

    def __call__(self, job):
        Path(self.folder, uuid.uuid4().hex).touch()
        return self

    def mix(self, specs, sources):
        end = time.monotonic() + DEADLINE
        while len(list(Path(self.folder).iterdir())) < self.files:
            assert time.monotonic() < end, f"never more than {len(list(Path(self.folder).iterdir()))} of {self.files}"
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


def test_a_task_of_several_chunks_stores_a_part_for_each(tmp_path):
    with session(config(), 30, images=40) as opened:
        job = mix_job(opened, SleepingMixer(0.0, 9))
        rows = read_chunks(pa.table({"id": [1]}), job, [np.array([9]), np.array([4, 2, 7])])
        assert rows["chunk"].to_pylist() == [4, 2, 7]
        mixes = pa.concat_tables([made(row) for row in rows.to_pylist()])
        assert store_chunks(mixes, job).equals(mixes)
        assert store_chunks(mixes, job, pass_on=False)["chunk"].to_pylist() == [4, 2, 7]
        store = MixStore(job.store)
        assert store.stored_chunks() == {2, 4, 7}
        # the bytes of a part do not depend on what it was made with
        apart = MixStore(str(tmp_path))
        apart.write(2, made(rows.to_pylist()[1]))
        assert apart.folder.read("part-00000002.parquet") == store.folder.read("part-00000002.parquet")


def made(row: dict) -> pa.Table:
    """What a mixer actor gives for a row of `read_chunks`."""
    rows = [{**spec, "image": source[::-1], "accepted": True} for spec, source in zip(row["specs"], row["sources"], strict=True)]
    return pa.Table.from_pylist(rows, schema=SCHEMA).append_column("chunk", pa.array([row["chunk"]] * len(rows)))


def test_pool_of_mixers_grows(tmp_path):
    with session(config(mixers=(1, 3)), 30, images=40) as opened:
        job = mix_job(opened, WaitsFor(str(tmp_path), 3))
        phases.synthesize(opened, job)  # no chunk ends before there are three mixers
        assert len(list(tmp_path.iterdir())) == 3
        assert len(MixStore(job.store).stored_chunks()) == 30


def test_stream_of_nothing():
    with session(config(), 30, images=40) as opened:
        assert stream(mix_job(opened, SleepingMixer(0.0, 9)), np.arange(0)).count() == 0
