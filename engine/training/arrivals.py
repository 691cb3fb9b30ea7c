"""How mixes reach a train worker: the ones in the store first, then the stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pyarrow as pa
import ray.data
import ray.train

from diffmix.files.read_ahead import read_ahead
from engine.failures import user_error
from engine.mixing.store import MixStore
from engine.training.attempt import Chunks, share
from engine.training.pool import PoolWriter


class Arrivals:
    """Fills a worker's pool with this rank's share of the stored mixes and, in a thread, with the
    mixes of the stream. With a stream a thread reads the stored ones too: mixers start at once.

    One train worker owns it. `finish` is called once, at the end.
    """

    def __init__(
        self,
        store: str | None,
        pool: PoolWriter,
        streaming: bool,
        stored: Chunks | None = None,
        read: Callable[[int], pa.Table] | None = None,
    ):
        """`store` is the path or URI of the mix store, None without mixes. With `streaming` the
        worker's shard `mix` of Ray Train is the stream, and has this rank's share of the stored
        chunks. Without it `stored` are the chunks that all ranks share; None: what the store holds.
        `read` gives a stored chunk's mixes; None: as they are.
        """
        self.began = time.monotonic()
        self.waited = 0.0
        """Seconds of waiting for the first mixes."""
        self.streamed = 0
        """Mixes that this worker has had from the stream."""
        self.first_streamed = 0.0
        """When the first of them came, as `began`; 0: not yet."""
        self._pool = pool
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._running = 0
        shard = ray.train.get_dataset_shard("mix") if streaming else None
        take: Callable[[], None] | None = None
        if store:
            mine = shard.stored if shard is not None else _my_share(MixStore(store), stored)
            take = partial(self._take_stored, read or MixStore(store).read, mine)
        if shard is not None:
            self._start("mix-stream", lambda: self._consume(shard))
            if take is not None:
                self._start("stored-mixes", take)
        elif take is not None:
            take()
        pool.flush()

    @property
    def streams(self) -> bool:
        """Whether mixes are still to come."""
        return self._running > 0

    def wait_for(self, mixes: int) -> None:
        """Return when the pool holds at least `mixes`, or when no more will come. Raises as `check`
        does.
        """
        start = time.monotonic()
        with self._changed:
            self._changed.wait_for(
                lambda: self._available() >= mixes or not self._running or self._error is not None
            )
        self.waited += time.monotonic() - start
        self.check()

    def check(self) -> None:
        """Raise the error that stopped the stream, if there was one: the `UserError` behind it,
        else a `RuntimeError`.
        """
        if self._error is not None:
            raise user_error(self._error) or RuntimeError(
                "The stream of mixes broke off."
            ) from self._error

    def finish(self) -> None:
        """Take the rest of the stream, so that every planned mix is made, including those that come
        too late for training. Raises as `check` does.
        """
        for thread in self._threads:
            thread.join()
        self.check()

    def _start(self, name: str, work: Callable[[], None]) -> None:
        def run() -> None:
            error: BaseException | None = None
            try:
                work()
                self._pool.flush()
            except BaseException as caught:
                error = caught
            with self._changed:
                self._error = self._error or error
                self._running -= 1
                self._changed.notify_all()

        self._running += 1
        thread = threading.Thread(target=run, daemon=True, name=name)
        self._threads.append(thread)
        thread.start()

    def _add(self, mixes: pa.Table) -> None:
        self._pool.add(mixes)
        with self._changed:
            self._changed.notify_all()

    def _take_stored(self, read: Callable[[int], pa.Table], chunks: Chunks) -> None:
        for table in read_ahead(read, (int(chunk) for chunk in chunks)):
            self._add(table)

    def _consume(self, shard: ray.data.DataIterator) -> None:
        # No prefetching: with it, Ray holds each block back until the next one has come, and this
        # thread has nothing else to do meanwhile.
        for table in shard.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            self._add(table)
            self.streamed += len(table)
            self.first_streamed = self.first_streamed or time.monotonic()

    def _available(self) -> int:
        """Mixes in the pool. Flushes first: mixes may wait in memory for the next file, and no
        later mix may come to push them out.
        """
        self._pool.flush()
        return len(self._pool)


def _my_share(store: MixStore, stored: Chunks | None) -> Chunks:
    context = ray.train.get_context()
    chunks = store.stored_numbers() if stored is None else stored
    return share(chunks, context.get_world_rank(), context.get_world_size())
