"""The batch that saturates a mixer's device: what `mix.batch: auto` means."""

from __future__ import annotations

import dataclasses
import logging
import resource
import time
from collections.abc import Callable

import psutil

from diffmix.config import MixConfig, ModelConfig
from diffmix.errors import UserError, reason

log = logging.getLogger(__name__)

LARGEST = 256
"""Mixes; a chunk is also the unit of retry."""
_WORTH = 1.05  # a larger batch has to be this much faster than a smaller one
_STEPS = 2  # denoising steps that are timed


def saturating_batch(model: ModelConfig, mix: MixConfig, most: int = LARGEST) -> int:
    """The smallest batch, a power of 2 up to `most`, whose mixes per second are within 5 % of the
    best that fits in memory.

    It is measured on this process's device with the base model alone: a concept adds no cost. Only
    denoising is timed, because encoding and decoding have their own batches. Raises `UserError` for
    a base model that cannot be used.
    """
    import torch

    from diffmix.generator.mixer import Mixer
    from diffmix.plan import MixSpec

    model = dataclasses.replace(model, compile=False)
    # Mixes from noise cost the same and need no sources.
    mixer = Mixer(
        model,
        # Batch 1: whether anything larger fits is what is asked.
        dataclasses.replace(mix, strategy="real-gen", batch=1),
        ["thing"],
        "thing",
    )

    @torch.inference_mode()
    def seconds(batch: int) -> float:
        specs = [
            MixSpec(mix_id=i, source_id="", source_label=0, target_label=0, strength=1.0, seed=i)
            for i in range(batch)
        ]
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            mixer.denoise(specs, [None] * batch, min(_STEPS, mix.num_inference_steps)).cpu()
            taken.append(time.perf_counter() - start)
        return min(taken)  # other work on the machine only adds time

    chosen = smallest_saturating(
        seconds, most, _memory_is_short if mixer.device.type == "cpu" else lambda: False
    )
    log.info("batch auto: %d mixes at once saturate %s", chosen, mixer.device)
    return chosen


def smallest_saturating(
    seconds: Callable[[int], float], most: int, memory_is_short: Callable[[], bool] = lambda: False
) -> int:
    """Try batches of 1, 2, 4, ... `most`. `seconds(batch)` runs one and returns its seconds, or
    raises `torch.OutOfMemoryError`.

    Raises `UserError` where one mix does not fit in memory. Stops when memory runs out, when
    `memory_is_short` says that twice as much would not fit, or when two doublings in a row gave
    less than 5 %.
    """
    import torch

    from diffmix.generator.device.memory import release

    rates: dict[int, float] = {}
    batch = 1
    while batch <= most:
        try:
            rates[batch] = batch / seconds(batch)
        except torch.OutOfMemoryError as error:
            if batch == 1:
                raise UserError(
                    f"One mix does not fit in memory ({reason(error)}); use a GPU with more "
                    "memory, a smaller --model.resolution or half a --model.precision."
                ) from error
            release()
            break
        log.info("batch %d: %.3g mixes' steps per second", batch, rates[batch])
        if (batch >= 4 and rates[batch] < _WORTH * rates[batch // 4]) or memory_is_short():
            break
        batch *= 2
    best = max(rates.values())
    return min(batch for batch, rate in rates.items() if rate * _WORTH >= best)


def _memory_is_short() -> bool:
    """Whether the memory left is less than this process's peak so far (models and last batch)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return psutil.virtual_memory().available < peak
