"""The train worker: the stream of mixes starts first, then the classifier's loop.

Nothing heavy is imported here, so that the stream, and with it the mixers, start while torch and
DeepSpeed still load.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import ray.data
import ray.train

from diffmix.config import Config
from engine.failures import user_error
from engine.mixing.store import MixStore
from engine.telemetry import Reporter
from engine.training.pool import PoolWriter


class Loop(Protocol):
    """What a train worker runs once its stream flows:
    `engine.training.classifier_loop.ClassifierLoop`, or a stand-in with a simulated cost.
    """

    def run(self) -> None: ...


def build_loop(job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> Loop:
    """The real loop: the classifier in DeepSpeed."""
    from engine.training.classifier_loop import ClassifierLoop

    return ClassifierLoop(job, pool, arrivals)


@dataclass(frozen=True)
class TrainJob:
    """What a train worker needs to know."""

    config: Config
    train: str
    """Path or URI of the training `RealSet`."""
    val: str | None
    test: str | None
    store: str | None
    """The mix store; None trains without mixes."""
    planned: int
    """Mixes in the whole plan."""
    classifier: str
    """Folder that the best weights go to."""
    reporter: Reporter
    name: str = "train"
    """Kind of its events: `train`, or `baseline`."""
    build: Callable[[TrainJob, PoolWriter, Arrivals], Loop] = build_loop
    """Makes what a worker runs, on the worker."""


def train_loop(settings: dict) -> None:
    """Run by every worker. `settings["job"]` is a `TrainJob`; the stream of fresh mixes is the
    shard `mix`, if there is one.
    """
    job: TrainJob = settings["job"]
    pool_folder = tempfile.mkdtemp(prefix="diffmix-pool-")
    try:
        pool = PoolWriter(pool_folder)
        arrivals = Arrivals(job, pool, settings["streaming"])
        job.build(job, pool, arrivals).run()
    finally:
        shutil.rmtree(pool_folder, ignore_errors=True)


class Arrivals:
    """Fills a worker's pool: first this rank's part of what the store holds already, then the
    stream, in a thread.

    Owned by one train worker; `finish` is called once, at the end.
    """

    def __init__(self, job: TrainJob, pool: PoolWriter, streaming: bool):
        self._pool = pool
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._done = not streaming
        if job.store:
            self._take_stored(MixStore(job.store))
        pool.flush()
        self._thread: threading.Thread | None = None
        if streaming:
            shard = ray.train.get_dataset_shard("mix")
            self._thread = threading.Thread(
                target=self._consume, args=(shard,), daemon=True, name="mix-stream"
            )
            self._thread.start()

    def _take_stored(self, store: MixStore) -> None:
        context = ray.train.get_context()
        chunks = sorted(store.stored_chunks())[context.get_world_rank() :: context.get_world_size()]
        for table in store.tables(chunks=set(chunks)):
            self._pool.add(table)

    def _consume(self, shard: ray.data.DataIterator) -> None:
        try:
            # Without prefetching: Ray holds a block back until the next one has come, and this is a
            # thread of its own.
            for table in shard.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                self._pool.add(table)
                with self._changed:
                    self._changed.notify_all()
            self._pool.flush()
        except BaseException as error:
            self._error = error
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def wait_for(self, mixes: int) -> None:
        """Return when the pool holds so many mixes, or the stream has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._at_hand() >= mixes or self._done)
        self.check()

    def _at_hand(self) -> int:
        """Mixes in the pool, those included that it has gathered for its next file: nobody may come
        to push them.
        """
        self._pool.flush()
        return len(self._pool)

    def check(self) -> None:
        """Raise what stopped the stream, if anything did."""
        if self._error is not None:
            raise user_error(self._error) or RuntimeError(
                "The stream of mixes broke off."
            ) from self._error

    def finish(self) -> None:
        """Take the rest of the stream: it makes every planned mix, also those that training no
        longer waits for.
        """
        if self._thread is not None:
            self._thread.join()
        self.check()
