"""Personalization on Stable Diffusion 1.5 (in a rehearsal on nano): samples a second by batch."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.cub_cost import PERSONALIZE_SAMPLES
from benchmarks.gpu.mixing import model
from benchmarks.gpu.section import Context, Figures
from benchmarks.gpu.timing import busy_seconds, kernels, peak_gb, reset_peak, sync, taken
from benchmarks.mixer_throughput import CLASSES, SUPERCLASS
from benchmarks.random_images import random_file
from diffmix.config import ModelConfig, PersonalizeConfig
from diffmix.datasets.real import Example, RealSet
from diffmix.personalize.train import Attempt, ConceptTraining
from diffmix.storage import Folder

_TFLOP = 0.28 + 0.03  # of a sample at 224 px (docs/hardware.md)
_WARM_UP = 3
_SECONDS = 3.0


def by_batch(context: Context) -> Figures:
    """Samples a second and memory by batch, tokens and LoRA of rank 10; the same with the UNet in
    autocast, and with a step's passes as a CUDA graph; minutes for what the paper trains on CUB;
    how busy the GPU is at the paper's batch.
    """
    sizes = context.sizes
    with tempfile.TemporaryDirectory(dir=context.scratch) as folder:
        real = _photos(folder)
        base = model(context, resolution=sizes.personalize_side)
        best = 0.0
        for batch in sizes.personalize_batches:
            if context.left() < 3 * _SECONDS + 15:
                yield f"batch_{batch}_samples_per_second", "no time left"
                continue
            for name, value in _one_batch(context, base, real, batch):
                yield f"batch_{batch}_{name}", value
                if name == "samples_per_second" and not isinstance(value, str):
                    best = max(best, value)
    yield "samples_per_second", best
    yield "cub_minutes", PERSONALIZE_SAMPLES / best / 60
    if not context.rehearse:
        yield "tflops", best * _TFLOP


def _one_batch(context: Context, base: ModelConfig, real: RealSet, batch: int) -> Figures:
    device = context.device
    reset_peak(device)
    start = time.perf_counter()
    options = PersonalizeConfig(batch_size=batch)
    prior = Folder(f"{context.scratch}/prior")
    training = ConceptTraining(base, options, real, 0, Attempt(), prior)
    yield "ready_s", time.perf_counter() - start
    steps = itertools.count()

    def step() -> None:
        training.step(next(steps))

    for _ in range(_WARM_UP):
        step()
    yield "samples_per_second", batch * _calls_per_second(step, context)
    yield "peak_gb", peak_gb(device)
    one = taken(step, device)
    yield "busy_share", min(1.0, busy_seconds(kernels(step, device)) / one)
    usual, training.autocast = training.autocast, training.dtype != torch.float32
    step()
    yield "autocast_samples_per_second", batch * _calls_per_second(step, context)
    training.autocast, training.graph.is_on = usual, True
    start = time.perf_counter()
    step()
    yield "graph_first_step_s", time.perf_counter() - start
    if training.graph.is_on:
        yield "graph_samples_per_second", batch * _calls_per_second(step, context)
        yield "graph_peak_gb", peak_gb(device)
    else:
        yield "graph_samples_per_second", "the step was not recorded; see the log"


def _calls_per_second(step: Callable[[], None], context: Context) -> float:
    limit = 0.2 if context.rehearse else _SECONDS
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < limit or not done:
        step()
        step()
        sync(context.device)
        done += 2
    return done / (time.perf_counter() - start)


def _photos(folder: str) -> RealSet:
    random = np.random.default_rng(0)
    examples = [
        Example(str(i), random_file(random, 28, 224), i % len(CLASSES))
        for i in range(2 * len(CLASSES))
    ]
    return RealSet.write(f"{folder}/train.arrow", examples, CLASSES, SUPERCLASS)
