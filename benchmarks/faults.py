"""What faults cost a run: simulated mixing and training on 16 nodes of this machine, of which one
mixer, mixing node, train worker or train node dies every 120 s on average.

The same job runs first undisturbed. "effective" is the undisturbed wall time over the disturbed
one. The disturbed run has to end with the same bytes in its store. A node that dies is replaced
after `--replace` seconds. RobustRL reports 80 % effective training time under 10 % fault injection
on 256 GPUs.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.train
from ray.cluster_utils import Cluster

from benchmarks import record
from diffmix.config import Config, MixConfig, PlacementConfig, RunConfig, TrainConfig
from engine import phases
from engine.session import Session
from engine.testing import SleepingLoop, SleepingMixer, simulated_mix_job, temporary_session
from engine.training.arrivals import Arrivals
from engine.training.job import TrainJob
from engine.training.pool import PoolWriter

BATCH, CHUNK_SECONDS, IMAGE_BYTES = 8, 1.0, 2_000
EPOCHS, REAL, TRAIN_BATCH = 60, 480, 48
KINDS = ("mixer", "mixing node", "train worker", "train node")


@dataclass(frozen=True)
class ResumingLoop:
    """`TrainJob.build` of a `SleepingLoop` that keeps a checkpoint after each epoch."""

    seconds: float

    def __call__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> _ResumingLoop:
        return _ResumingLoop(self.seconds, job, pool, arrivals)


class _ResumingLoop:
    def __init__(self, seconds: float, job: TrainJob, pool: PoolWriter, arrivals: Arrivals):
        self.loop: Any = SleepingLoop(seconds)(job, pool, arrivals)
        job.reporter.send("worker", pid=os.getpid())

    def run(self) -> None:
        job, loop = self.loop.job, self.loop
        loop.arrivals.wait_for(int(job.config.run.train_after * job.planned / loop.workers))
        for epoch in range(self._first(), job.config.train.epochs):
            loop.arrivals.check()
            loop._epoch(epoch)
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "epoch").write_text(str(epoch + 1))
                kept = ray.train.Checkpoint.from_directory(folder) if loop.rank == 0 else None
                ray.train.report({"epoch": epoch + 1}, checkpoint=kept)
        loop.arrivals.finish()

    def _first(self) -> int:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return 0
        with checkpoint.as_directory() as folder:
            return int(Path(folder, "epoch").read_text())


class Nodes:
    """A head without GPUs and nodes of one logical GPU each, for mixers and for train workers."""

    def __init__(self, mixers: int, trainers: int):
        # A thread adds nodes: with hooks at exit Ray would set signal handlers for each of them.
        self.cluster = Cluster(shutdown_at_exit=False)
        settings = {"prestart_worker_first_driver": False, "worker_register_timeout_seconds": 600}
        self.cluster.add_node(
            num_gpus=0,
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=200_000_000,
            _system_config=settings,
        )
        self.nodes: dict[str, list] = {"gen": [], "train": []}
        for kind, count in (("gen", mixers), ("train", trainers)):
            for _ in range(count):
                self.add(kind)

    def add(self, kind: str) -> None:
        node = self.cluster.add_node(
            num_gpus=1,
            num_cpus=2,
            object_store_memory=100_000_000,
            labels={"ray-subcluster": kind},
        )
        self.nodes[kind].append(node)

    def kill(self, kind: str, random: random.Random) -> None:
        found = self.nodes[kind]
        node = found.pop(random.randrange(len(found)))
        self.cluster.remove_node(node, allow_graceful=False)


@contextmanager
def nodes(mixers: int, trainers: int) -> Iterator[Nodes]:
    """Connect to a new cluster of such nodes."""
    found = Nodes(mixers, trainers)
    ray.init(address=found.cluster.address, namespace="diffmix", log_to_driver=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nodes would outlive this process
    found.cluster.wait_for_nodes()
    try:
        yield found
    finally:
        ray.shutdown()
        found.cluster.shutdown()


class Faults:
    """Injects faults in a thread until it is stopped. The benchmark owns it."""

    def __init__(self, session: Session, nodes: Nodes, every: float, replace: float, seed: int):
        self.session, self.nodes, self.every, self.replace = session, nodes, every, replace
        self.random = random.Random(seed)
        self.met: Counter = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="faults")
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self.random.expovariate(1 / self.every)):
            kind = self.random.choice(KINDS)
            try:
                if self._inject(kind):
                    self.met[kind] += 1
                    print(f"{time.strftime('%H:%M:%S')} {kind}", file=sys.stderr, flush=True)
            except Exception as error:  # the run may end meanwhile
                print(f"{kind}: {error}", file=sys.stderr, flush=True)

    def _inject(self, kind: str) -> bool:
        if kind.endswith("node"):
            label = "gen" if kind == "mixing node" else "train"
            self.nodes.kill(label, self.random)
            self._over.wait(self.replace)
            self.nodes.add(label)
            return True
        self.session.telemetry.collect()
        event = "mixer_ready" if kind == "mixer" else "worker"
        pids = {found["pid"] for found in self.session.telemetry.events if found["event"] == event}
        living = sorted(pid for pid in pids if psutil.pid_exists(pid))
        if living:
            os.kill(self.random.choice(living), signal.SIGKILL)
        return bool(living)


def config(mixers: int, trainers: int, chunks: int) -> Config:
    return Config(
        mix=MixConfig(strategy="real-mix", count=chunks * BATCH, batch=BATCH, synthetic_p=0.3),
        train=TrainConfig(batch_size=TRAIN_BATCH, epochs=EPOCHS, loader_workers=0),
        placement=PlacementConfig(
            mixers=(mixers,),
            trainers=trainers,
            cpus_per_mixer=0.5,
            cpus_per_trainer=0.5,
            separate=True,
            max_failures=-1,
        ),
        run=RunConfig(train_after=0.02),
    )


def one_run(made: Config, seconds: float, nodes: Nodes, faults: tuple | None) -> dict:
    """Wall seconds, the store's content and what happened, of a job whose phases both take about
    `seconds`. `faults` are arguments of `Faults`.
    """
    with temporary_session(made, IMAGE_BYTES, REAL) as session:
        job = simulated_mix_job(session, SleepingMixer(CHUNK_SECONDS, IMAGE_BYTES))
        step = seconds * made.placement.trainers / (EPOCHS * REAL / TRAIN_BATCH)
        injected = Faults(session, nodes, *faults) if faults else None
        start = time.monotonic()
        try:
            phases.train_classifier(session, job, streaming=True, build=ResumingLoop(step))
            phases.make_mixes(session, job)
        finally:
            if injected:
                injected.stop()
        wall = time.monotonic() - start
        session.telemetry.collect()
        chunks = [event for event in session.telemetry.events if event["event"] == "mix"]
        folder = Path(session.source.store.folder.path)
        return {
            "wall": wall,
            "store": {
                part.name: hashlib.sha256(part.read_bytes()).hexdigest()
                for part in sorted(folder.glob("part-*"))
            },
            "repeated": len(chunks) - len({event["chunk"] for event in chunks}),
            "faults": dict(injected.met) if injected else {},
        }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the undisturbed run")
    parser.add_argument("--every", type=float, default=120.0, help="mean seconds between faults")
    parser.add_argument("--replace", type=float, default=5.0, help="seconds until a new node comes")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    trainers = max(1, chosen.nodes // 4)
    mixers = chosen.nodes - trainers
    seconds = chosen.minutes * 60
    made = config(mixers, trainers, max(mixers, round(mixers * seconds / CHUNK_SECONDS)))
    with nodes(mixers, trainers) as found:
        calm = one_run(made, seconds, found, None)
    with nodes(mixers, trainers) as found:
        disturbed = one_run(
            replace(made), seconds, found, (chosen.every, chosen.replace, chosen.seed)
        )
    same = calm["store"] == disturbed["store"]
    effective = calm["wall"] / disturbed["wall"]
    print(__doc__)
    rows: list[list[object]] = [
        ["undisturbed", calm["wall"], 0, calm["repeated"], ""],
        [
            "disturbed",
            disturbed["wall"],
            sum(disturbed["faults"].values()),
            disturbed["repeated"],
            str(disturbed["faults"]),
        ],
    ]
    columns = ["run", "wall s", "faults", "chunks made twice", "kinds"]
    record.show(f"{mixers} mixers, {trainers} train workers", columns, rows)
    print(f"effective {effective:.3f}; the stores are {'equal' if same else 'DIFFERENT'}")
    figures = {
        "nodes": chosen.nodes,
        "every_seconds": chosen.every,
        "undisturbed_wall": calm["wall"],
        "disturbed_wall": disturbed["wall"],
        "effective": effective,
        "faults": sum(disturbed["faults"].values()),
        "repeated_chunks": disturbed["repeated"],
        "chunks": len(calm["store"]),
        "stores_equal": float(same),
    }
    record.write(chosen.json, figures, kinds=disturbed["faults"])
    if not same:
        sys.exit("the stores differ")


if __name__ == "__main__":
    main()
