"""Every accepted mix is in exactly one worker's pool: after a worker's death in the middle of the
stream, and with another number of workers.

Covers `engine/mixer/mixer_actor.py` too.
"""

import json
import os
import signal
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.train

from diffmix.config import Config, MixConfig, PlacementConfig, TrainConfig, replace
from engine import phases
from engine.mixing import stages
from engine.mixing.store import MixStore
from engine.testing import SleepingMixer, simulated_mix_job, temporary_session
from engine.training.arrivals import Arrivals
from engine.training.attempt import share
from engine.training.job import TrainJob
from engine.training.pool import PoolWriter
from engine.worker_group.growth import REGROUP, Regroup

MIXES, BATCH = 240, 4


def pooled(folder: str) -> list[int]:
    """The ids of the mixes in a pool, read from its files."""
    ids: list[int] = []
    for file in sorted(Path(folder).glob("*.arrow")):
        ids += pa.ipc.open_file(pa.memory_map(str(file))).read_all()["mix_id"].to_pylist()
    return ids


@dataclass(frozen=True)
class Dying:
    """`TrainJob.build` of a loop that notes what its pool holds. In the first attempt rank 1 is
    killed when some mixes have come.
    """

    notes: str
    dies: bool

    def __call__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> "DyingLoop":
        return DyingLoop(self, pool, arrivals)


class DyingLoop:
    def __init__(self, settings: Dying, pool: PoolWriter, arrivals: Arrivals):
        self.settings, self.pool, self.arrivals = settings, pool, arrivals
        self.rank = ray.train.get_context().get_world_rank()

    def run(self) -> None:
        died = Path(self.settings.notes, "died")
        if self.settings.dies and self.rank == 1 and not died.exists():
            self.arrivals.wait_for(3 * BATCH)
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.arrivals.finish()
        workers = ray.train.get_context().get_world_size()
        note = Path(self.settings.notes, f"{workers}-{self.rank}.json")
        note.write_text(json.dumps(pooled(self.pool.folder)))


@dataclass(frozen=True)
class Growing:
    """`TrainJob.build` of a loop that notes what its pool holds. One worker asks for three when
    some mixes have come, as an elastic group does.
    """

    notes: str

    def __call__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> "GrowingLoop":
        return GrowingLoop(self, pool, arrivals)


class GrowingLoop(DyingLoop):
    def run(self) -> None:
        if ray.train.get_context().get_world_size() == 1:
            self.arrivals.wait_for(3 * BATCH)
            ray.train.report({REGROUP: 3})
            raise Regroup
        self.settings = Dying(self.settings.notes, False)
        super().run()


class LeavingLoop(DyingLoop):
    """Its training is over when some mixes have come; it leaves the rest of the stream."""

    def run(self) -> None:
        self.arrivals.wait_for(3 * BATCH)


def leaving(job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> LeavingLoop:
    return LeavingLoop(Dying("", False), pool, arrivals)


def notes(folder: Path, workers: int) -> list[list[int]]:
    return [json.loads((folder / f"{workers}-{rank}.json").read_text()) for rank in range(workers)]


def test_shares_are_disjoint_and_complete():
    for workers in (1, 2, 3, 7):
        shares = [share(list(range(20)), rank, workers) for rank in range(workers)]
        assert sorted(chunk for each in shares for chunk in each) == list(range(20))


@pytest.mark.usefixtures("cluster")
def test_pools_are_disjoint_after_a_workers_death_and_with_more_workers(tmp_path):
    config = Config(
        mix=MixConfig(count=MIXES, batch=BATCH, strategy="real-mix"),
        train=TrainConfig(epochs=1, batch_size=6),
        placement=PlacementConfig(trainers=2, cpus_per_mixer=0.5, cpus_per_trainer=0.5),
    )
    with temporary_session(config, 30, count=40) as session:
        job = simulated_mix_job(session, SleepingMixer(0.02, 9))
        build = Dying(str(tmp_path), True)
        phases.train_classifier(session, job, streaming=True, build=build)
        assert (tmp_path / "died").exists()
        pools = notes(tmp_path, 2)
        assert sorted(pools[0] + pools[1]) == list(range(MIXES)), "a mix is lost or doubled"
        made = [event for event in collected(session) if event["event"] == "mix"]
        chunks = [event["chunk"] for event in made]
        assert sorted(chunks) == list(range(MIXES // BATCH)), "a chunk was made twice"
        # The same store, and one worker more.
        more = replace(config, **{"placement.trainers": 3, "train.lr": 0.01})
        session = replace_config(session, more)
        phases.train_classifier(session, job, build=Dying(str(tmp_path), False))
        assert sorted(chain.from_iterable(notes(tmp_path, 3))) == list(range(MIXES))


@pytest.mark.usefixtures("cluster")
def test_pools_are_disjoint_when_a_group_grows_in_the_middle_of_the_stream(tmp_path):
    config = Config(
        mix=MixConfig(count=MIXES, batch=BATCH, strategy="real-mix"),
        train=TrainConfig(epochs=1, batch_size=6),
        placement=PlacementConfig(elastic=True, cpus_per_mixer=0.5, cpus_per_trainer=0.5),
    )
    with temporary_session(config, 30, count=40) as session:
        job = simulated_mix_job(session, SleepingMixer(0.2, 9))
        phases.train_classifier(session, job, streaming=True, build=Growing(str(tmp_path)))
        assert sorted(chain.from_iterable(notes(tmp_path, 3))) == list(range(MIXES))
        events = collected(session)
        (grown,) = (event for event in events if event["event"] == "resize")
        assert (grown["before"], grown["workers"]) == (1, 3)
        made = [event for event in events if event["event"] == "mix"]
        assert sorted(event["chunk"] for event in made) == list(range(MIXES // BATCH))
        assert max(event["end"] for event in made) > grown["time"], "it grew after the stream"


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_train_workers_that_are_done_leave_their_gpus_to_mixers():
    config = Config(
        mix=MixConfig(count=MIXES, batch=BATCH, strategy="real-mix"),
        train=TrainConfig(epochs=1, batch_size=6),
        placement=PlacementConfig(
            elastic=True, trainers=2, cpus_per_mixer=0.5, cpus_per_trainer=0.5
        ),
    )
    with temporary_session(config, 30, count=40) as session:
        job = simulated_mix_job(session, SleepingMixer(0.4, 9))
        phases.train_classifier(session, job, streaming=True, build=leaving)
        over = time.time()
        phases.make_rest(session, job)
        made = [event for event in collected(session) if event["event"] == "mix"]
        assert sorted(event["chunk"] for event in made) == list(range(MIXES // BATCH))
        late = {event["actor"] for event in made if event["start"] > over}
        assert len(late) == 3, "one mixer, and two in the place of the train workers"


def collected(session) -> list[dict]:
    session.telemetry.collect()
    return session.telemetry.events


def replace_config(session, config):
    import dataclasses

    return dataclasses.replace(session, config=replace(config, out=session.config.out))


@pytest.mark.usefixtures("cluster")
def test_mixers_of_a_stream_that_was_given_up_stop_between_chunks(monkeypatch):
    """A task of 20 chunks is under way when the stream is given up."""
    groups = [np.arange(1), np.arange(1, 21)]
    monkeypatch.setattr(stages, "group_chunks", lambda *_: groups)
    config = Config(
        mix=MixConfig(count=84, batch=BATCH, strategy="real-mix"),
        train=TrainConfig(epochs=1, batch_size=6),
        placement=PlacementConfig(cpus_per_mixer=0.5, cpus_per_trainer=0.5),
    )
    with temporary_session(config, 30, count=40) as session:
        job = simulated_mix_job(session, SleepingMixer(0.5, 9))
        store = MixStore(job.store)
        (part,) = stages.stream(job, np.arange(21)).streaming_split(1, equal=False)
        batches = iter(part.iter_batches(batch_size=None, prefetch_batches=0))
        next(batches)  # kept: Ray ends the stream of an iterator that nobody holds
        end = time.monotonic() + 60
        while len(store.stored_chunks()) < 3:
            assert time.monotonic() < end, "the mixer makes nothing"
            Event().wait(0.05)  # files send no event
        ray.get(part._coord_actor.shutdown_executor.remote())  # as Ray Train does
        end = time.monotonic() + 60
        while ray.available_resources().get("GPU", 0) < ray.cluster_resources()["GPU"]:
            assert time.monotonic() < end, "the mixer goes on"
            Event().wait(0.1)
        assert len(store.stored_chunks()) < 12
