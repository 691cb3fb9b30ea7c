"""SDXL's architecture with random weights, and mixers in the memory of smaller cards."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import random_base
from benchmarks.gpu.mixing import model, settings
from benchmarks.gpu.section import Context, Figures
from benchmarks.gpu.timing import peak_gb, reset_peak, taken
from benchmarks.mixer_throughput import CLASSES, SUPERCLASS, tasks
from diffmix.config import MixConfig, ModelConfig, replace
from diffmix.generator.device.batch_size import saturating_batch
from diffmix.generator.mixer import Mixer
from diffmix.plan import MixSpec

Chunk = tuple[list[MixSpec], list[None]]


def speed(context: Context) -> Figures:
    """Images a second from noise at 1024 px, 20 steps, guidance, by batch; as MLPerf's benchmark of
    SDXL makes them, but with another sampler.
    """
    device, sizes = context.device, context.sizes
    start = time.perf_counter()
    base = xl_model(context)
    yield "write_base_s", time.perf_counter() - start
    start = time.perf_counter()
    mix = MixConfig(strategy="real-gen", num_inference_steps=sizes.xl_steps, batch=1)
    mixer = Mixer(base, mix, CLASSES, SUPERCLASS)
    yield "load_s", time.perf_counter() - start
    best = 0.0
    for batch in sizes.xl_batches:
        if context.left() < 15:
            yield f"batch_{batch}_images_per_second", "no time left"
            continue
        reset_peak(device)
        try:
            mixer.mix(*from_noise(batch, 0))
            rate = batch / taken(partial(mixer.mix, *from_noise(batch, 1)), device)
        except torch.OutOfMemoryError as error:
            yield f"batch_{batch}_images_per_second", _first_line(error)
            continue
        yield f"batch_{batch}_images_per_second", rate
        yield f"batch_{batch}_peak_gb", peak_gb(device)
        best = max(best, rate)
    yield "images_per_second", best


def capped(context: Context) -> Figures:
    """What a mixer does in the memory of smaller cards: the batch that `auto` chooses, whether a
    chunk of it goes through, and what a chunk that is too large says. SDXL in fp16 at the end.
    """
    sizes = context.sizes
    base = model(context)
    for gb in sizes.caps_gb:
        limit(context, gb)
        batch = 0
        try:
            batch = saturating_batch(base, settings(context, 1), sizes.largest_batch)
            yield f"{gb}_gb_batch", batch
        except Exception as error:  # what is raised is what is asked
            yield f"{gb}_gb_batch", _first_line(error)
        counts = {"auto": batch, "too_large": 4 * sizes.largest_batch}
        yield from _chunks(context, base, {f"{gb}_gb_{name}": n for name, n in counts.items() if n})
    gb = sizes.caps_gb[0]
    if context.left() < 35 and not context.rehearse:
        yield f"{gb}_gb_xl_chunk", "no time left"
        return
    limit(context, gb)
    precision = "auto" if context.device == "cpu" else "fp16"
    half = replace(xl_model(context), precision=precision)
    yield from _chunks(context, half, {f"{gb}_gb_xl": 2})


def _chunks(context: Context, base: ModelConfig, counts: dict[str, int]) -> Figures:
    """GB that a chunk of so many mixes took, or what it said instead."""
    mixer: Mixer | None = None
    for name, count in counts.items():
        reset_peak(context.device)
        try:
            mixer = mixer or Mixer(base, settings(context, count), CLASSES, SUPERCLASS)
            mixer.mix(*tasks(count, mixer.resolution, 0))
            yield f"{name}_chunk", peak_gb(context.device)
            how = ", ".join(f"{key} {value}" for key, value in mixer.made_with.items())
            yield f"{name} made with", how
        except Exception as error:  # what is raised is what is asked
            yield f"{name}_chunk", _first_line(error)


def xl_model(context: Context) -> ModelConfig:
    """The base with random weights, written once."""

    def write(folder: Path) -> None:
        random_base.write_sdxl(folder, context.dtype(), context.device, small=context.rehearse)

    return ModelConfig(base=str(context.folder("sdxl", write)), resolution=context.sizes.xl_side)


def from_noise(count: int, seed: int) -> Chunk:
    """`count` images that start from noise."""
    specs = [
        MixSpec(
            mix_id=i,
            source_id="",
            source_label=0,
            target_label=i % len(CLASSES),
            strength=1.0,
            seed=1000 * seed + i,
        )
        for i in range(count)
    ]
    return specs, [None] * count


def limit(context: Context, gb: int) -> None:
    """Let this process have `gb` of the GPU's memory at most."""
    reset_peak(context.device)
    if context.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gb * 1e9 / total))


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:300]}"
