"""Stand-ins with a known cost: a mixer that sleeps, a train step that sleeps. All around them is
the engine's own code.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import IO

import numpy as np
import ray
import ray.train
from PIL import Image

from diffmix.config import Config
from diffmix.datasets.prepare import Prepared
from diffmix.datasets.real import Example, RealSet
from diffmix.plan import MixSpec
from diffmix.storage import Folder
from engine.mixing.mix_source import find_mix_source
from engine.mixing.stages import MixJob
from engine.session import Session
from engine.telemetry import Telemetry
from engine.training.pool import PoolReader, PoolWriter
from engine.training.worker import Arrivals, TrainJob

CLASSES = 20


class Ready(Image.Image):
    """A picture that is encoded already, so that encoding costs nothing: `save` writes the given
    file.
    """

    def __init__(self, file: bytes):
        super().__init__()
        self.file = file

    def save(self, fp: IO[bytes], format: str | None = None, **params: object) -> None:  # type: ignore[override]
        fp.write(self.file)


@dataclass(frozen=True)
class SleepingMixer:
    """`MixJob.build` and what it builds: a mixer whose every chunk takes `seconds` and gives files
    of `image_bytes`.

    With `together`, no chunk begins before so many mixers are there: one machine takes a minute to
    start 64 of them, in which the first would do the work of the last.
    """

    seconds: float
    image_bytes: int
    together: int = 0

    def __call__(self, job: MixJob) -> SleepingMixer:
        if self.together:
            Path(self._folder(job), uuid.uuid4().hex).touch()
            while len(os.listdir(self._folder(job))) < self.together:
                Event().wait(0.2)
        return self

    def _folder(self, job: MixJob) -> str:
        folder = job.store + "-mixers"
        os.makedirs(folder, exist_ok=True)
        return folder

    def mix(self, specs: list[MixSpec], sources: list[bytes | None]) -> list[Image.Image]:
        time.sleep(self.seconds)
        return [Ready(np.random.default_rng(spec.seed).bytes(self.image_bytes)) for spec in specs]


@dataclass(frozen=True)
class TakeAll:
    """`TrainJob.build` and the loop it builds: no training at all, only the pool, to the stream's
    end.
    """

    job: TrainJob | None = None
    arrivals: Arrivals | None = None

    def __call__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> TakeAll:
        return TakeAll(job, arrivals)

    def run(self) -> None:
        assert self.job is not None
        assert self.arrivals is not None
        self.arrivals.finish()
        self.job.reporter.send("arrived", end=time.time())


@dataclass(frozen=True)
class SleepingLoop:
    """`TrainJob.build` and the loop it builds: epochs of steps that take `seconds` on one worker
    and 1/n of that on n.

    What a step is fed comes the engine's own way: the sampler, the pool and the real images' file.
    """

    seconds: float
    job: TrainJob | None = None
    pool: PoolWriter | None = None
    arrivals: Arrivals | None = None

    def __call__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> SleepingLoop:
        return SleepingLoop(self.seconds, job, pool, arrivals)

    def run(self) -> None:
        from diffmix.classifier.samples import MixedSampler

        assert self.job is not None
        assert self.pool is not None
        assert self.arrivals is not None
        config, real, reader = (
            self.job.config,
            RealSet.open(self.job.train),
            PoolReader(self.pool.folder),
        )
        context = ray.train.get_context()
        rank, workers = context.get_world_rank(), context.get_world_size()
        size = config.train.batch_size
        sampler = MixedSampler(
            len(real),
            config.mix.synthetic_p,
            self.pool.__len__,
            size,
            config.run.seed,
            rank,
            workers,
        )
        self.arrivals.wait_for(int(config.run.train_after * self.job.planned / workers))
        for epoch in range(config.train.epochs):
            self.arrivals.check()
            start, wait, synthetic = time.time(), 0.0, 0
            sampler.set_epoch(epoch)
            draws = iter(sampler)
            for _ in range(sampler.steps):
                asked = time.perf_counter()
                for draw in islice(draws, size // workers):
                    synthetic += draw.synthetic
                    _ = reader[draw.row].image if draw.synthetic else real.image_bytes(draw.row)
                wait += time.perf_counter() - asked
                time.sleep(self.seconds / workers)
            self.job.reporter.send(
                self.job.name,
                start=start,
                end=time.time(),
                rank=rank,
                epoch=epoch,
                pool=len(self.pool),
                images=sampler.steps * size // workers,
                synthetic=synthetic,
                wait=wait,
                loss=0.0,
            )
        self.arrivals.finish()


@contextmanager
def session(config: Config, image_bytes: int, images: int = 500) -> Iterator[Session]:
    """A session on the connected cluster, in a folder that is deleted afterwards, with real images
    of random bytes.
    """
    out = tempfile.mkdtemp(prefix="diffmix-benchmark-")
    random = np.random.default_rng(0)
    try:
        examples = [Example(f"{i}", random.bytes(image_bytes), i % CLASSES) for i in range(images)]
        real = RealSet.write(
            f"{out}/train.arrow", examples, [f"class {i}" for i in range(CLASSES)], "thing"
        )
        telemetry = Telemetry(Folder(out), f"telemetry-{uuid.uuid4().hex[:8]}")
        yield Session(
            config=replace(config, out=out),
            out=Folder(out),
            data=Prepared(real, None, real),
            source=find_mix_source(Folder(out), real),
            telemetry=telemetry,
        )
        telemetry.close()
    finally:
        shutil.rmtree(out, ignore_errors=True)


def mix_job(opened: Session, mixer: SleepingMixer) -> MixJob:
    """The job of a session's mixers, with an empty store."""
    from engine import (
        phases,  # imports torch, which the workers that unpickle a stand-in do without
    )

    opened.source.store.bind({})
    return replace(phases.mix_job(opened, None), build=mixer)


def start_ray(gpus: int, cpus: int, **settings: object) -> None:
    """One node with logical GPUs. Its workers start a few at a time: two cores cannot start 64
    within Ray's time limit.
    """
    ray.init(
        address="local",
        num_gpus=gpus,
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=2 * 10**9,
        namespace="diffmix",
        log_to_driver=False,
        _system_config={
            "prestart_worker_first_driver": False,
            "worker_maximum_startup_concurrency": 4,
            "worker_register_timeout_seconds": 600,
            **settings,
        },
    )
