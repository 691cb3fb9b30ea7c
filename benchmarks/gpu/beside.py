"""A mixer and a classifier's training on one GPU at the same time, in two processes, with the mixes
of the one trained on by the other.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.gpu.classifier import best_step, loaded, photos
from benchmarks.gpu.mixing import StoringMixer, model, settings
from benchmarks.gpu.section import Context, Figures
from benchmarks.gpu.timing import sync
from benchmarks.mixer_throughput import CLASSES, SUPERCLASS
from diffmix.config import MixConfig, ModelConfig
from diffmix.datasets.real import RealSet
from diffmix.generator.mixer import Mixer
from engine.mixing.store import MixStore
from engine.training.pool import PoolWriter

_SYNTHETIC_P = 0.3
_ALONE = 30  # steps


def overlap(context: Context) -> Figures:
    """Rates of both alone and beside each other, and the share of samples that were mixes."""
    sizes = context.sizes
    store = Path(context.scratch, "overlap-store")
    mix = settings(context, sizes.chunk)
    mixing = context.beside(0, _mix, model(context), mix, str(store), sizes.photo_side)
    alone = context.receive(mixing)
    yield "mixes_per_second_alone", alone
    step, name = best_step(context)
    yield "trained by", name
    real = RealSet.open(str(context.folder("photos", photos(context)) / "train.arrow"))
    pool = PoolWriter(str(Path(context.scratch, "overlap-pool")))
    workers = sizes.loader_workers[-1]
    batches = loaded(context, real, workers, pool.folder, pool.__len__, _SYNTHETIC_P)
    arrived: set[int] = set()

    def train(steps: int) -> tuple[float, float]:
        """Images a second and the share of mixes among them."""
        images = synthetic = 0
        start = time.perf_counter()
        for _ in range(steps):
            for chunk in MixStore(str(store)).stored_chunks() - arrived:
                pool.add(MixStore(str(store)).read(chunk))
                pool.flush()
                arrived.add(chunk)
            batch = next(batches)
            step(batch[0], batch[1])
            images += len(batch[0])
            synthetic += int(batch[2].sum())
            if context.left() < 10:
                break
        sync(context.device)
        return images / (time.perf_counter() - start), synthetic / images

    few = min(_ALONE, sizes.overlap_steps)
    train(few // 3 or 1)
    yield "train_images_per_second_alone", train(few)[0]
    mixing.send("go")
    beside, share = train(sizes.overlap_steps)
    mixing.send("stop")
    yield "train_images_per_second_beside", beside
    yield "mixes_per_second_beside", context.receive(mixing)
    yield "synthetic_share", share
    yield "chunks_trained_on", len(arrived)


def _mix(connection: Connection, base: ModelConfig, mix: MixConfig, store: str, side: int) -> None:
    """The mixer's process: sends its rate alone, waits for a word, mixes until the next, and sends
    its rate.
    """
    mixer = StoringMixer(Mixer(base, mix, CLASSES, SUPERCLASS), store, side)
    mixer.run(1)
    connection.send(2 * mixer.mixer.batch / mixer.run(2))
    connection.recv()
    chunks, start = 0, time.perf_counter()
    while not connection.poll() or not chunks:
        mixer.run(2)
        chunks += 2
    connection.send(chunks * mixer.mixer.batch / (time.perf_counter() - start))
