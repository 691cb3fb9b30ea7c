"""Every accepted mix is in exactly one worker's pool: after a worker's death in the middle of the
stream, and with another number of workers.

Covers `engine/mixing/mixer_actor.py` too.
"""

import json
import os
import signal
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest
import ray.train

from diffmix.config import Config, MixConfig, PlacementConfig, TrainConfig, replace
from engine import phases
from engine.testing import SleepingMixer, simulated_mix_job, temporary_session
from engine.training.arrivals import Arrivals
from engine.training.attempt import share
from engine.training.job import TrainJob
from engine.training.pool import PoolWriter

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


def collected(session) -> list[dict]:
    session.telemetry.collect()
    return session.telemetry.events


def replace_config(session, config):
    import dataclasses

    return dataclasses.replace(session, config=replace(config, out=session.config.out))
