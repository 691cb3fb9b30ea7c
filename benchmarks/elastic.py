"""Training that goes on with more workers when the stream of mixes has ended (`placement.elastic`),
against training that keeps its one worker, and against a second `fit` with more workers.

One machine with three logical GPUs, two mixers and one train worker, and stand-ins for what costs:
a train step on n workers takes 1/n of a step on one. The hand-over is the time from the last step
on one worker to the first on three. A stand-in loads no model.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import ray
import ray.train

from benchmarks import record
from diffmix.config import Config, MixConfig, PlacementConfig, TrainConfig, replace
from engine import phases
from engine.session import Session
from engine.testing import SleepingMixer, simulated_mix_job, start_ray, temporary_session
from engine.training.arrivals import Arrivals
from engine.training.job import TrainJob
from engine.training.pool import PoolWriter
from engine.worker_group.growth import Growth

STEPS = 100
BATCH = 6
CHUNKS = 40
CHUNK_SECONDS = 0.5


@dataclass(frozen=True)
class Sleeping:
    """`TrainJob.build` of a loop whose steps take `seconds` on one worker. With `once` it ends, as
    if it were done, when the stream has ended; called again it goes on.
    """

    seconds: float
    once: bool = False

    def __call__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> Loop:
        return Loop(self, job, arrivals)


class Loop:
    def __init__(self, settings: Sleeping, job: TrainJob, arrivals: Arrivals):
        self.settings, self.job, self.arrivals = settings, job, arrivals
        self.growth = Growth(job.elastic, arrivals, device=None)  # type: ignore[arg-type]
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()

    def run(self) -> None:
        self.arrivals.wait_for(1)
        checkpoint = ray.train.get_checkpoint()
        first = 0
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                first = json.loads(Path(folder, "step.json").read_text())
        for step in range(first, STEPS):
            start = time.time()
            time.sleep(self.settings.seconds / self.workers)
            self._tell(start)
            left = STEPS - step - 1
            ends = self.settings.once and self.workers == 1 and not self.arrivals.streams
            if left and (ends or (self.workers == 1 and self.growth.due(left))):
                self._keep(step + 1)
                self.growth.leave()
                return
        self.arrivals.finish()

    def _tell(self, start: float) -> None:
        if self.rank == 0:
            values = {"start": start, "end": time.time(), "workers": self.workers}
            self.job.reporter.send("step", **values)

    def _keep(self, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step.json").write_text(json.dumps(step))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(self.growth.shown, checkpoint=checkpoint)


def config(elastic: bool) -> Config:
    return Config(
        mix=MixConfig(strategy="real-mix", count=2 * CHUNKS, batch=2),
        train=TrainConfig(batch_size=BATCH, epochs=1, loader_workers=0),
        placement=PlacementConfig(
            mixers=(2,), elastic=elastic, cpus_per_mixer=0.5, cpus_per_trainer=0.5
        ),
    )


def run(way: str, seconds: float) -> dict[str, float]:
    """The figures of one run: `wall` from the first step to the last, and `handover`."""
    made = config(way == "elastic")
    with temporary_session(made, 1_000, 100) as session:
        job = simulated_mix_job(session, SleepingMixer(CHUNK_SECONDS, 1_000))
        build = Sleeping(seconds / STEPS, once=way == "second fit")
        phases.train_classifier(session, job, streaming=True, build=build)
        if way == "second fit":
            phases.train_classifier(again(session), job, streaming=True, build=build)
        session.telemetry.collect()
        steps = [event for event in session.telemetry.events if event["event"] == "step"]
    figures = {"wall": steps[-1]["end"] - steps[0]["start"], "workers": steps[-1]["workers"]}
    for before, after in pairwise(steps):
        if before["workers"] != after["workers"]:
            figures["handover"] = after["start"] - before["end"]
            figures["steps_before"] = steps.index(after)
    return figures


def again(session: Session) -> Session:
    """The session with three workers, and with the classifier as if it were not done."""
    for file in Path(session.out.path, "checkpoints").glob("classifier-*-best/finished"):
        file.unlink()
    return dataclasses.replace(session, config=replace(session.config, **{"placement.trainers": 3}))


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument(
        "--seconds", type=float, default=90.0, help="what training takes on one worker"
    )
    arguments = parser.parse_args()
    start_ray(gpus=3, cpus=8)
    found = {}
    for way in ("elastic", "second fit", "fixed"):
        found[way] = run(way, arguments.seconds)
        print(way, found[way], file=sys.stderr, flush=True)
    ray.shutdown()
    figures: dict[str, float] = {}
    rows = []
    for way, values in found.items():
        name = way.replace(" ", "_")
        figures |= {f"{name}.{key}": round(value, 2) for key, value in values.items()}
        ratio = values["wall"] / found["fixed"]["wall"]
        figures[f"{name}.of_fixed"] = round(ratio, 3)
        rows.append([way, values["wall"], ratio, values.get("handover", "")])
    record.show("Training", ["way", "seconds", "of one worker's", "hand-over, s"], rows)
    record.write(arguments.json, figures)


if __name__ == "__main__":
    main()
