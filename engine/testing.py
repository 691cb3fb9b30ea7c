"""Stand-ins with a known cost, for tests and benchmarks: mixers, train loops, and what they need
around them. All else is the engine's own code.

Nothing heavy is imported here: workers unpickle stand-ins before torch is loaded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import IO

import numpy as np
import pyarrow as pa
import ray
import ray.train
from PIL import Image

from diffmix import images
from diffmix.config import Config
from diffmix.datasets.prepare import Prepared
from diffmix.datasets.real import Example, RealSet
from diffmix.plan import MixSpec
from diffmix.storage import Folder
from engine.mixing.job import ChunkMixer, MixJob
from engine.mixing.mix_source import find_mix_source
from engine.mixing.store import SCHEMA
from engine.nodes.ask_ahead import AskAhead
from engine.placement.capacity import live
from engine.session import Session
from engine.telemetry import Telemetry, now
from engine.training.arrivals import Arrivals
from engine.training.job import TrainJob
from engine.training.pool import PoolReader, PoolWriter

CLASSES = 20
"""Classes of `temporary_session`'s real images."""


class EncodedImage(Image.Image):
    """An image that is encoded already, so that encoding costs nothing: `save` writes the file."""

    def __init__(self, file: bytes):
        super().__init__()
        self.file = file

    def save(self, fp: IO[bytes], format: str | None = None, **params: object) -> None:  # type: ignore[override]
        fp.write(self.file)


@dataclass(frozen=True)
class SleepingMixer:
    """A mixer whose every chunk takes `seconds`, and whose images are files of `image_bytes`. It is
    also the `MixJob.build` that makes it.

    With `together` no mixer is ready before so many are. One machine takes a minute to start 64
    mixers; without it the first ones would do the work of the last.
    """

    seconds: float
    image_bytes: int
    together: int = 0

    def __call__(self, job: MixJob) -> SleepingMixer:
        if self.together:
            gather(job.store + "-mixers", self.together, 3600)
        return self

    def mix(self, specs: list[MixSpec], sources: list[bytes | None]) -> list[Image.Image]:
        time.sleep(self.seconds)
        made: list[Image.Image] = []
        for spec in specs:
            file = np.random.default_rng(spec.seed).bytes(self.image_bytes)
            made.append(EncodedImage(file))
        return made


class CopyingMixer:
    """A mixer whose mixes are their source images, so that they can be looked at. It is also the
    `MixJob.build` that makes it.
    """

    def __call__(self, job: MixJob) -> CopyingMixer:
        return self

    def mix(self, specs: list[MixSpec], sources: list[bytes | None]) -> list[Image.Image]:
        return [images.decode(source) for source in sources if source is not None]


@dataclass(frozen=True)
class OtherwiseMixer(CopyingMixer):
    """A `CopyingMixer` that says how it makes mixes, and prepares sources beforehand."""

    made_with: dict

    def prepare(self, specs: list[MixSpec], sources: list[bytes | None]) -> list:
        return [images.decode(source) for source in sources if source is not None]

    def mix(self, specs: list[MixSpec], sources: list) -> list[Image.Image]:
        return list(sources)


@dataclass(frozen=True)
class GatheringMixer:
    """`MixJob.build` of mixers that `build` makes. None of them finishes a chunk before `mixers` of
    them have one. `folder` is an empty one that all can write to.
    """

    folder: str
    mixers: int
    build: Callable[[MixJob], ChunkMixer]

    def __call__(self, job: MixJob) -> ChunkMixer:
        return _GatheringMixer(self, self.build(job))


@dataclass(frozen=True)
class _GatheringMixer:
    settings: GatheringMixer
    mixer: ChunkMixer

    def mix(self, specs: list[MixSpec], sources: list[bytes | None]) -> list[Image.Image]:
        gather(self.settings.folder, self.settings.mixers)
        return self.mixer.mix(specs, sources)


@dataclass(frozen=True)
class StoppedMixer:
    """`MixJob.build` of a mixer that `build` makes. It makes `chunks` chunks, and no other is done
    before mixing is stopped (`Telemetry.stop_mixing`).
    """

    chunks: int
    build: Callable[[MixJob], ChunkMixer]

    def __call__(self, job: MixJob) -> ChunkMixer:
        return _StoppedMixer(self.chunks, self.build(job), job)


class _StoppedMixer:
    def __init__(self, chunks: int, mixer: ChunkMixer, job: MixJob):
        self.left, self.mixer, self.job = chunks, mixer, job

    def mix(self, specs: list[MixSpec], sources: list[bytes | None]) -> list[Image.Image]:
        self.left -= 1
        while self.left < 0 and not self.job.reporter.is_stopped():
            Event().wait(0.05)  # an actor sends no event
        return self.mixer.mix(specs, sources)


def gather(folder: str, count: int, seconds: float = 120.0) -> None:
    """Return when `count` processes of this machine have called this with the same folder. A
    process may call it again. `TimeoutError` after `seconds`.
    """
    os.makedirs(folder, exist_ok=True)
    Path(folder, str(os.getpid())).touch()
    end = time.monotonic() + seconds
    while (there := len(os.listdir(folder))) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{there} of {count} processes came within {seconds:g} s")
        Event().wait(0.1)  # files of other processes send no event


@dataclass(frozen=True)
class StreamOnly:
    """A loop that does not train: it takes the stream to its end, and sends the event `arrived`."""

    job: TrainJob
    arrivals: Arrivals

    @staticmethod
    def build(job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> StreamOnly:
        """`TrainJob.build`"""
        return StreamOnly(job, arrivals)

    def run(self) -> None:
        self.arrivals.finish()
        self.job.reporter.send("arrived", end=now())


@dataclass(frozen=True)
class SleepingLoop:
    """`TrainJob.build` of a loop whose steps take `seconds` on one worker, and 1/n of that on n.

    Each step is fed the engine's own way: by the sampler, the pool and the real images' file.
    """

    seconds: float

    def __call__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> _SleepingLoop:
        return _SleepingLoop(self.seconds, job, pool, arrivals)


class _SleepingLoop:
    def __init__(self, seconds: float, job: TrainJob, pool: PoolWriter, arrivals: Arrivals):
        from diffmix.classifier.samples import MixedSampler

        self.seconds, self.job, self.pool, self.arrivals = seconds, job, pool, arrivals
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.real, self.mixes = RealSet.open(job.train_path), PoolReader(pool.folder)
        self.share = job.config.train.batch_size // self.workers
        self.sampler = MixedSampler(
            len(self.real),
            job.config.mix.synthetic_p,
            pool.__len__,
            job.config.train.batch_size,
            job.config.run.seed,
            self.rank,
            self.workers,
        )

    def run(self) -> None:
        config = self.job.config
        self.arrivals.wait_for(int(config.run.train_after * self.job.planned / self.workers))
        for epoch in range(config.train.epochs):
            self.arrivals.check()
            self._epoch(epoch)
        self.arrivals.finish()

    def _epoch(self, epoch: int) -> None:
        start, wait, synthetic = now(), 0.0, 0
        self.sampler.set_epoch(epoch)
        draws = iter(self.sampler)
        for _ in range(self.sampler.steps):
            asked = time.perf_counter()
            for draw in islice(draws, self.share):
                synthetic += draw.synthetic
                if draw.synthetic:
                    _ = self.mixes[draw.row].image
                else:
                    self.real.image_bytes(draw.row)
            wait += time.perf_counter() - asked
            time.sleep(self.seconds / self.workers)
        self.job.reporter.send(
            self.job.name,
            start=start,
            end=now(),
            rank=self.rank,
            epoch=epoch,
            pool=len(self.pool),
            images=self.sampler.steps * self.share,
            synthetic=synthetic,
            wait=wait,
            loss=0.0,
        )


@contextmanager
def temporary_session(config: Config, image_bytes: int, count: int = 500) -> Iterator[Session]:
    """A session on the connected cluster, with `count` real images of random bytes (no image
    files). Its run folder is a new one and is deleted afterwards.
    """
    out = tempfile.mkdtemp(prefix="diffmix-testing-")
    random = np.random.default_rng(0)
    try:
        examples = [Example(f"{i}", random.bytes(image_bytes), i % CLASSES) for i in range(count)]
        class_names = [f"class {i}" for i in range(CLASSES)]
        real = RealSet.write(f"{out}/train.arrow", examples, class_names, "thing")
        telemetry = Telemetry(Folder(out), f"telemetry-{uuid.uuid4().hex[:8]}")
        yield Session(
            config=replace(config, out=out),
            out=Folder(out),
            data=Prepared(real, None, real),
            source=find_mix_source(Folder(out), real),
            telemetry=telemetry,
            capacity=live(),
            ahead=AskAhead(config.placement, live()),
            marker=None,
        )
        telemetry.close()
    finally:
        shutil.rmtree(out, ignore_errors=True)


def simulated_mix_job(session: Session, build: Callable[[MixJob], ChunkMixer]) -> MixJob:
    """The session's `MixJob` with a stand-in for the mixer, and with an empty store."""
    from engine import phases  # imports torch

    session.source.store.bind({})
    return replace(phases.mix_job(session, None), build=build)


def mix_table(count: int, first: int = 0, **columns: object) -> pa.Table:
    """`count` mixes as the store keeps them, numbered from `first`. `columns` replaces what stands
    for the content of a column: one value for all mixes, or a list of their values.
    """
    ids = range(first, first + count)
    values: dict[str, object] = {
        "mix_id": list(ids),
        "source_id": [f"a/{i}" for i in ids],
        "source_label": 0,
        "target_label": 1,
        "strength": 0.7,
        "seed": list(ids),
        "image": [f"image {i}".encode() for i in ids],
        "score": None,
        "accepted": True,
        **columns,
    }
    arrays = {
        name: value if isinstance(value, list) else [value] * count
        for name, value in values.items()
    }
    return pa.table(arrays, schema=SCHEMA)


def start_ray(gpus: int, cpus: int, **settings: object) -> None:
    """Start and connect to one node with logical GPUs. Its workers start a few at a time: two cores
    cannot start 64 within Ray's time limit.
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
