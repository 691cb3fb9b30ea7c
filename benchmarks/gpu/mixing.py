"""The mixer on Stable Diffusion 1.5 (in a rehearsal on nano): its speed against stock diffusers,
its images, their bytes, and how busy it keeps the GPU while it encodes and stores.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
from PIL import Image

from benchmarks import random_base
from benchmarks.gpu.section import Context, Figures
from benchmarks.gpu.timing import busy_seconds, kernels, peak_gb, reset_peak, taken
from benchmarks.mixer_throughput import (
    CLASSES,
    SD15_TFLOP,
    SUPERCLASS,
    OneAtATime,
    mix_all,
    paper_settings,
    psnr,
    tasks,
)
from diffmix import images
from diffmix.config import MixConfig, ModelConfig, replace
from diffmix.generator.device.batch_size import saturating_batch
from diffmix.generator.device.measured import made_with_here
from diffmix.generator.mixer import Mixer
from diffmix.plan import MixSpec
from engine.mixing.store import SCHEMA, MixStore

Chunk = tuple[list[MixSpec], list[bytes]]
"""Mixes, and their sources' files."""


def model(context: Context, **changes: Any) -> ModelConfig:
    """The base with random weights, in the precision that mixers choose on this device."""
    if context.rehearse:
        return ModelConfig(base=_nano(), **changes)

    def write(folder: Path) -> None:
        random_base.write_sd15(folder, context.dtype(), context.device)

    return ModelConfig(base=str(context.folder("sd15", write)), **changes)


def _nano() -> str:
    from diffmix.generator.base_model import NANO_FOLDER

    return str(NANO_FOLDER)


def settings(context: Context, batch: int) -> MixConfig:
    """The paper's: 25 steps, guidance 7.5, strength 0.7."""
    return replace(paper_settings(batch), num_inference_steps=context.sizes.steps)


def speed(context: Context) -> Figures:
    """Images a second with `mix.batch auto`, and of stock diffusers with one image in a call."""
    device, sizes = context.device, context.sizes
    start = time.perf_counter()
    base = model(context)
    yield "write_base_s", time.perf_counter() - start
    batch = saturating_batch(base, settings(context, 1), sizes.largest_batch)
    yield "batch", batch
    reset_peak(device)
    start = time.perf_counter()
    chosen = made_with_here(base, settings(context, batch))
    yield "choose_s", time.perf_counter() - start
    start = time.perf_counter()
    mixer = Mixer(base, settings(context, batch), CLASSES, SUPERCLASS, made_with=chosen)
    yield "load_s", time.perf_counter() - start
    memory = psutil.Process().memory_info()
    yield "private_main_memory_gb", (memory.rss - memory.shared) / 1e9
    yield "made with", _text(mixer.made_with)
    mix_all(mixer, *tasks(batch, mixer.resolution, -1))
    reset_peak(device)
    rates: list[float] = []
    for repeat in range(sizes.repeats):
        if rates and context.left() < 40:
            break
        chunk = tasks(batch, mixer.resolution, repeat)
        rates.append(batch / taken(partial(mix_all, mixer, *chunk), device))
    ours = float(np.median(rates))
    yield "images_per_second", ours
    yield "peak_gb", peak_gb(device)
    if not context.rehearse:  # nano has other FLOPs
        yield "tflops", ours * SD15_TFLOP
        if ceiling := context.known.get("ceilings.matmul_half_tflops"):
            yield "share_of_matmul", ours * SD15_TFLOP / ceiling
    yield from _stock(context, base, mixer, ours)


def _stock(context: Context, base: ModelConfig, mixer: Mixer, ours: float) -> Figures:
    usual, device = OneAtATime(mixer, base), context.device
    specs, sources = tasks(context.sizes.stock_images + 1, mixer.resolution, 100)
    usual(specs[:1], sources[:1])
    seconds = [
        taken(partial(usual, specs[i : i + 1], sources[i : i + 1]), device)
        for i in range(1, len(specs))
    ]
    alone = float(np.median(seconds))
    yield "stock_images_per_second", 1 / alone
    yield "ratio_to_stock", ours * alone
    # The profiler slows the call down, but not its kernels.
    ran = kernels(lambda: usual(specs[:1], sources[:1]), device)
    yield "stock_busy_share", min(1.0, busy_seconds(ran) / alone)


def agreement(context: Context) -> Figures:
    """The lowest PSNR in dB to stock diffusers in fp32: of the mixer in fp32, and in half. Random
    weights make images of little contrast, so nano's, which are trained, are compared too.
    """
    bases = {"": model(context), "nano_": ModelConfig(base=_nano())}
    for prefix, base in bases.items():
        exact = replace(base, precision="fp32")
        mix = settings(context, context.sizes.agreeing_images)
        mixer = Mixer(exact, mix, CLASSES, SUPERCLASS)
        chunk = tasks(mixer.batch, mixer.resolution, 0)
        stock = OneAtATime(mixer, exact)(*chunk)
        yield f"{prefix}contrast", float(np.mean([np.asarray(image).std() for image in stock]))
        yield f"{prefix}fp32_psnr_db_min", _lowest(mixer.mix(*chunk), stock)
        del mixer
        reset_peak(context.device)
        half = Mixer(base, mix, CLASSES, SUPERCLASS)
        yield f"{prefix}half_psnr_db_min", _lowest(half.mix(*chunk), stock)
    fp16 = "fp32" if context.rehearse else "fp16"  # CPUs have no mixer in fp16
    for wanted, name in ((False, "fp16"), (True, "fp16_added_in_fp16")):
        fewer = replace(base, precision=fp16, fp16_accumulation=wanted)
        made = Mixer(fewer, mix, CLASSES, SUPERCLASS).mix(*chunk)
        yield f"nano_{name}_psnr_db_min", _lowest(made, stock)


def _lowest(made: list[Image.Image], others: list[Image.Image]) -> float:
    return min(psnr(one, other) for one, other in zip(made, others, strict=True))


def bytes_of_a_chunk(context: Context) -> Figures:
    """Whether a chunk's pixels are the same: fresh, after another chunk, in another process, and
    from two threads that take turns, as the engine's mixer is called.
    """
    base, mix = model(context), settings(context, context.sizes.chunk)
    chosen = made_with_here(base, mix)  # once, as a run does
    others = [context.beside(number, _digest_of_first, base, mix, chosen) for number in range(2)]
    mixer = Mixer(base, mix, CLASSES, SUPERCLASS, made_with=chosen)
    yield "made with", _text(mixer.made_with)
    chunks = [tasks(mix_size(mix), mixer.resolution, number) for number in range(2)]
    fresh = digest(mixer.mix(*chunks[0]))
    digest(mixer.mix(*chunks[1]))
    yield "same_after_another", float(digest(mixer.mix(*chunks[0])) == fresh)
    turn = threading.Lock()

    def one(chunk: Chunk) -> str:
        with turn:
            made = mixer.mix(*chunk)
        return digest(made)

    with ThreadPoolExecutor(2) as threads:
        seen = list(threads.map(one, [*chunks, *chunks, *chunks]))
    yield "same_from_two_threads", float(seen[::2] == [fresh] * 3 and len(set(seen[1::2])) == 1)
    answers = [context.receive(connection) for connection in others]
    yield "made with in other processes", "; ".join(_text(how) for how, _ in answers)
    yield "same_in_other_processes", float(all(found == fresh for _, found in answers))


def _digest_of_first(
    connection: Connection, base: ModelConfig, mix: MixConfig, chosen: dict
) -> None:
    mixer = Mixer(base, mix, CLASSES, SUPERCLASS, made_with=chosen)
    made = mixer.mix(*tasks(mix_size(mix), mixer.resolution, 0))
    connection.send((mixer.made_with, digest(made)))


def _text(made_with: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in made_with.items())


def mix_size(mix: MixConfig) -> int:
    """The chunk's size, which is a number here."""
    assert isinstance(mix.batch, int)
    return mix.batch


def digest(made: list[Image.Image]) -> str:
    """A hash of the images' pixels."""
    return hashlib.sha256(b"".join(np.asarray(image).tobytes() for image in made)).hexdigest()


def idle(context: Context) -> Figures:
    """How much of the time the GPU runs nothing while two threads mix, encode and store, one of
    them on the device at a time, as the engine's mixer does.
    """
    mix = settings(context, context.sizes.chunk)
    mixer = Mixer(model(context), mix, CLASSES, SUPERCLASS)
    with tempfile.TemporaryDirectory(dir=context.scratch) as folder:
        storing = StoringMixer(mixer, folder, context.sizes.photo_side)
        storing.run(2)
        seconds = storing.run(2)
        chunks = max(2, min(8, int((context.left() - 15) / seconds)))
        storing.locked = 0.0
        wall = storing.run(chunks)
        yield "images_per_second", chunks * mixer.batch / wall
        yield "outside_lock_share", max(0.0, 1 - storing.locked / wall)
        ran = kernels(lambda: storing.run(chunks), context.device)
        yield "idle_share", max(0.0, 1 - busy_seconds(ran) / wall)


class StoringMixer:
    """What `engine.mixer.mixer_actor.MixActor` does with chunks, without Ray. Sources are files
    of `side` px.
    """

    def __init__(self, mixer: Mixer, folder: str, side: int):
        self.mixer, self.store, self.side = mixer, MixStore(folder), side
        self.store.folder.create()
        self.device = threading.Lock()
        self.locked = 0.0
        """Seconds that the device was held."""
        self._numbers = itertools.count()

    def run(self, chunks: int) -> float:
        """Make and store `chunks` new ones with two threads; gives the seconds that it took."""
        numbers = list(itertools.islice(self._numbers, chunks))
        prepared = [tasks(self.mixer.batch, self.side, number) for number in numbers]
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(self.make, numbers, prepared))
        return time.perf_counter() - start

    def make(self, number: int, chunk: Chunk) -> None:
        """Make and store one chunk."""
        prepared = self.mixer.prepare(*chunk)
        with self.device:
            start = time.perf_counter()
            made = self.mixer.mix(chunk[0], prepared)
            self.locked += time.perf_counter() - start
        rows = []
        for spec, image in zip(chunk[0], made, strict=True):
            file = images.encode(image, "jpeg", 95)
            rows.append({**asdict(spec), "image": file, "score": None, "accepted": True})
        self.store.write(number, pa.Table.from_pylist(rows, schema=SCHEMA))


def compiled_speed(context: Context) -> Figures:
    """Images a second of the mixer with `model.compile`: all of the UNet, or its blocks where the
    section `compile` has found them faster or nothing. What that section compiled is used again.
    """
    batch, known = context.sizes.chunk, context.known
    rates = [known.get(f"compile.{name}_nhwc_speedup", 0.0) for name in ("whole", "regional")]
    scope = "unet" if rates[0] > rates[1] else "blocks"
    yield "scope", scope
    with compiler(context):
        base = model(context, compile=True, compile_scope=scope, layout="nhwc")
        mixer = Mixer(base, settings(context, batch), CLASSES, SUPERCLASS)
        first = tasks(batch, mixer.resolution, -1)
        yield "first_chunk_s", taken(partial(mix_all, mixer, *first), context.device)
        made = tasks(2 * batch, mixer.resolution, 0)
        seconds = taken(partial(mix_all, mixer, *made), context.device)
    yield "images_per_second", len(made[0]) / seconds
    yield "graphs", mixer.graphs


@contextmanager
def compiler(context: Context) -> Iterator[None]:
    """Inside, torch.compile uses this machine's compiler; in a rehearsal none, so that it takes
    seconds.
    """
    usual = torch.compile
    torch.compile = partial(usual, backend=context.sizes.compile_backend)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = usual
