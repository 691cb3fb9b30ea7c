"""Overlapped against staged runs, with simulated costs on a cluster of 8 nodes with one logical GPU
each.

G:T is the cost of mixing : the cost of training, in GPU-seconds. The engine chooses the split of
the 8 GPUs, for training that scales perfectly. A wall time counts from the begin of the first chunk
to the end of the last chunk or epoch. It is divided by the length of the longer phase, as the
staged run on the same split has it.

"Staged, all GPUs" mixes on 8 GPUs and then trains on 8, as if training scaled perfectly. "...
training as it is" mixes on 8 GPUs and then trains on those of the split, as where training scales
no further.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.cluster_utils import Cluster

from benchmarks import record
from diffmix.config import Config, MixConfig, PlacementConfig, RunConfig, TrainConfig
from engine import phases
from engine.placement.split import Rates, choose
from engine.results.figures import figures, length, spans, union
from engine.testing import SleepingLoop, SleepingMixer, simulated_mix_job, temporary_session

NODES = 8
BATCH = 16
CHUNK_SECONDS = 0.6
IMAGE_BYTES = 5_000
EPOCHS = 40
REAL = 600
TRAIN_BATCH = 60
TRAIN_AFTER = 0.02
RATIOS = {"4_1": 4.0, "1_1": 1.0, "1_4": 0.25}


@dataclass(frozen=True)
class Costs:
    """The simulated job: the cost of each phase in GPU-seconds."""

    generate: float
    train: float

    @property
    def chunks(self) -> int:
        return round(self.generate / CHUNK_SECONDS)

    @property
    def mixes(self) -> int:
        return self.chunks * BATCH

    def time_steps(self, config: Config, num_classes: int, workers: list[int]) -> dict[int, float]:
        """A `calibrate.StepTimer`, of a train step that sleeps."""
        return {n: timed_sleep(self.loop().seconds / n) for n in workers}

    def loop(self) -> SleepingLoop:
        return SleepingLoop(self.train / (EPOCHS * REAL / TRAIN_BATCH))

    def split(self) -> tuple[int, int]:
        """How many mixers and train workers the engine chooses."""
        train_seconds = {n: self.train / n for n in (1, 2, 3, 4, 5, 6)}
        rates = Rates(BATCH / CHUNK_SECONDS, train_seconds, "known")
        best = choose(config(1, 1, self.chunks), rates, self.mixes, NODES)
        return NODES - best.trainers, best.trainers


def timed_sleep(seconds: float) -> float:
    start = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - start


def costs(ratio: float, seconds: float) -> Costs:
    """Costs of this ratio that together keep all GPUs busy for `seconds`. At any ratio the longer
    phase then takes about so long.
    """
    whole = seconds * NODES
    return Costs(whole * ratio / (1 + ratio), whole / (1 + ratio))


def config(mixers: int, trainers: int, chunks: int, mode: str = "overlapped") -> Config:
    return Config(
        mix=MixConfig(strategy="real-mix", count=chunks * BATCH, batch=BATCH, synthetic_p=0.3),
        train=TrainConfig(batch_size=TRAIN_BATCH, epochs=EPOCHS, loader_workers=0),
        placement=PlacementConfig(
            mixers=(mixers,), trainers=trainers, cpus_per_mixer=0.5, cpus_per_trainer=0.5
        ),
        run=RunConfig(mode=mode, train_after=TRAIN_AFTER),  # type: ignore[arg-type]
    )


def run(job_costs: Costs, mixers: int, trainers: int, mode: str) -> dict:
    """The figures of one run: mixing and training with stand-ins for what costs. `wall` is as the
    module defines it; `phases` are the seconds of mixing and training.
    """
    made = config(mixers, trainers, job_costs.chunks, mode)
    with temporary_session(made, IMAGE_BYTES, REAL) as session:
        job = simulated_mix_job(session, SleepingMixer(CHUNK_SECONDS, IMAGE_BYTES))
        if mode == "staged":
            phases.make_mixes(session, job)
        phases.train_classifier(
            session, job, streaming=mode == "overlapped", build=job_costs.loop()
        )
        phases.make_mixes(session, job)
        session.telemetry.collect()
        events = session.telemetry.events
        mixing, training = spans(events, "mix"), spans(events, "train")
        found = figures(events)
        # Between the phases of a staged run train workers start. That does not count.
        busy = length(union(mixing, 5.0)), length(union(training, 5.0))
        last = max(end for _, end in [*mixing, *training])
        found["wall"] = sum(busy) if mode == "staged" else last - mixing[0][0]
        found["phases"] = busy
        return found


@contextmanager
def eight_nodes() -> Iterator[None]:
    """Connect to 8 nodes on this machine, with one logical GPU each."""
    cluster = Cluster()
    common = {"num_gpus": 1, "num_cpus": 2, "object_store_memory": 150_000_000}
    settings = {"prestart_worker_first_driver": False, "worker_register_timeout_seconds": 600}
    cluster.add_node(include_dashboard=False, _system_config=settings, **common)
    for _ in range(NODES - 1):
        cluster.add_node(**common)
    ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
    cluster.wait_for_nodes()
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="seconds that both phases together would keep all GPUs busy",
    )
    parser.add_argument(
        "--ratios",
        nargs="+",
        choices=list(RATIOS),
        default=list(RATIOS),
        help="cost of mixing : cost of training",
    )
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    measured: dict[str, float] = {}
    rows: list[list[object]] = []
    waits, busy = [], []
    with eight_nodes():
        for name in chosen.ratios:
            job_costs = costs(RATIOS[name], chosen.seconds)
            mixers, trainers = job_costs.split()
            kinds: dict[str, list[float]] = {
                "overlapped": [],
                "staged_same_split": [],
                "staged_all_gpus": [],
                "staged_all_gpus_train_as_is": [],
            }
            for _ in range(chosen.repeats):
                overlapped = run(job_costs, mixers, trainers, "overlapped")
                same = run(job_costs, mixers, trainers, "staged")
                everything = run(job_costs, NODES, NODES, "staged")
                longer = max(same["phases"])
                kinds["overlapped"].append(overlapped["wall"] / longer)
                kinds["staged_same_split"].append(same["wall"] / longer)
                kinds["staged_all_gpus"].append(everything["wall"] / longer)
                kinds["staged_all_gpus_train_as_is"].append(
                    (everything["phases"][0] + same["phases"][1]) / longer
                )
                waits.append(overlapped["trainer"]["data_wait_fraction"])
                busy.append(overlapped["mixer"]["busy_fraction"])
                last = {kind: values[-1] for kind, values in kinds.items()}
                print(f"{name}: {last}", file=sys.stderr, flush=True)
            medians = {kind: statistics.median(values) for kind, values in kinds.items()}
            measured |= {f"{kind}_over_longer_{name}": value for kind, value in medians.items()}
            rows.append(
                [name.replace("_", ":"), f"{mixers} + {trainers}", longer, *medians.values()]
            )
    measured["trainer_wait_fraction"] = statistics.median(waits)
    measured["mixer_busy_fraction"] = statistics.median(busy)
    print(__doc__)
    columns = [
        "G:T",
        "mixers + trainers",
        "longer phase s",
        "overlapped",
        "staged, same split",
        "staged, all GPUs",
        "... training as it is",
    ]
    record.show("wall time over the longer phase", columns, rows)
    wait, worked = measured["trainer_wait_fraction"], measured["mixer_busy_fraction"]
    print(
        f"Train workers wait for data {wait:.2%} of the time; mixers are busy {worked:.1%} of it."
    )
    record.write(chosen.json, measured)


if __name__ == "__main__":
    main()
