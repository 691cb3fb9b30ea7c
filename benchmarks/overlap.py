"""Overlapped against staged, with simulated costs on a cluster of 8 nodes with one logical GPU
each.

G:T is the cost of mixing to the cost of training in GPU-seconds. The split of the 8 GPUs is the one
that the engine chooses for training that scales perfectly. Every wall time counts from the first
chunk's begin to the end of the last chunk or epoch; all are divided by the longer of the two phases
when each runs alone on the same split (the staged run's own spans).

"Staged on all GPUs" mixes on 8 and then trains on 8 GPUs, as if training scaled perfectly. "...
training as it is" adds mixing on 8 GPUs to training on the split's own: what is left where training
scales no further.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.cluster_utils import Cluster

from benchmarks import record
from benchmarks.simulated import SleepingLoop, SleepingMixer, mix_job, session
from diffmix.config import Config, MixConfig, PlacementConfig, RunConfig, TrainConfig
from engine import phases
from engine.placement.split import Rates, choose
from engine.results.figures import figures, length, spans, union

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
    """The simulated job: GPU-seconds of each phase."""

    generate: float
    train: float

    @property
    def chunks(self) -> int:
        return round(self.generate / CHUNK_SECONDS)

    @property
    def mixes(self) -> int:
        return self.chunks * BATCH

    def time_steps(self, config: Config, num_classes: int, workers: list[int]) -> dict[int, float]:
        """`calibrate.StepTimer` of a train step that sleeps."""
        return {n: timed_sleep(self.loop().seconds / n) for n in workers}

    def loop(self) -> SleepingLoop:
        return SleepingLoop(self.train / (EPOCHS * REAL / TRAIN_BATCH))

    def split(self) -> tuple[int, int]:
        """Mixers and train workers."""
        rates = Rates(
            BATCH / CHUNK_SECONDS, {n: self.train / n for n in (1, 2, 3, 4, 5, 6)}, "known"
        )
        best = choose(config(1, 1, self.chunks), rates, self.mixes, NODES)
        return NODES - best.trainers, best.trainers


def timed_sleep(seconds: float) -> float:
    start = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - start


def costs(ratio: float, seconds: float) -> Costs:
    """Costs of this ratio that keep all GPUs busy for `seconds`, so that at any ratio the longer
    phase takes about as long.
    """
    whole = seconds * NODES
    return Costs(whole * ratio / (1 + ratio), whole / (1 + ratio))


def config(mixers: int, trainers: int, chunks: int, mode: str = "overlapped") -> Config:
    return Config(
        mix=MixConfig(strategy="real-mix", count=chunks * BATCH, batch=BATCH, synthetic_p=0.3),
        train=TrainConfig(batch_size=TRAIN_BATCH, epochs=EPOCHS, loader_workers=0),
        placement=PlacementConfig(
            mixers=(mixers,),
            trainers=trainers,
            cpus_per_mixer=0.5,
            cpus_per_trainer=0.5,
        ),
        run=RunConfig(mode=mode, train_after=TRAIN_AFTER),  # type: ignore[arg-type]
    )


def run(job_costs: Costs, mixers: int, trainers: int, mode: str) -> dict:
    """Figures of one run: `engine.run.run`'s two phases with stand-ins for what costs; `wall` is as
    the module defines it.
    """
    with session(config(mixers, trainers, job_costs.chunks, mode), IMAGE_BYTES, REAL) as opened:
        job = mix_job(opened, SleepingMixer(CHUNK_SECONDS, IMAGE_BYTES))
        if mode == "staged":
            phases.make_mixes(opened, job)
        phases.train_classifier(opened, job, streaming=mode == "overlapped", build=job_costs.loop())
        phases.make_mixes(opened, job)
        opened.telemetry.collect()
        mixing, training = (
            spans(opened.telemetry.events, "mix"),
            spans(opened.telemetry.events, "train"),
        )
        found = figures(opened.telemetry.events)
        # Staged, the time between the phases is spent on starting train workers: that is start-up,
        # not work.
        busy = length(union(mixing, 5.0)), length(union(training, 5.0))
        last = max(end for _, end in [*mixing, *training])
        found["wall"] = sum(busy) if mode == "staged" else last - mixing[0][0]
        found["phases"] = busy
        return found


@contextmanager
def eight_nodes() -> Iterator[None]:
    """8 raylets on this machine, with one logical GPU each."""
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="work of both phases for all GPUs: about the length of the longer phase",
    )
    parser.add_argument(
        "--ratios",
        nargs="+",
        choices=list(RATIOS),
        default=list(RATIOS),
        help="costs of mixing : training",
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
                print(
                    f"{name}: { ({kind: values[-1] for kind, values in kinds.items()}) }",
                    file=sys.stderr,
                    flush=True,
                )
            medians = {kind: statistics.median(values) for kind, values in kinds.items()}
            measured |= {f"{kind}_over_longer_{name}": value for kind, value in medians.items()}
            rows.append(
                [name.replace("_", ":"), f"{mixers} + {trainers}", longer, *medians.values()]
            )
    measured["trainer_wait_fraction"], measured["mixer_busy_fraction"] = (
        statistics.median(waits),
        statistics.median(busy),
    )
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
    print(
        f"trainer waits for data {measured['trainer_wait_fraction']:.2%}, mixers busy {measured['mixer_busy_fraction']:.1%} of the time"
    )
    record.write(chosen.json, measured)


if __name__ == "__main__":
    main()
