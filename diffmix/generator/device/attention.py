"""Which attention kernels the UNet runs on."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from diffmix.config.model import Attention, Kernels
from diffmix.errors import UserError, reason

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

log = logging.getLogger(__name__)

CANDIDATES: tuple[Kernels, ...] = ("sdpa", "cudnn", "xformers")
"""What `auto` times, the usual one first."""
_WORTH = 1.02
"""How much faster than sdpa another one has to be: less is noise."""
_CALLS = 3
_WHY_NOT = (ImportError, NotImplementedError, ValueError, RuntimeError)
"""What kernels raise that do not run on this GPU, or not at these shapes."""


def choose_attention(
    unet: UNet2DConditionModel,
    choice: Attention,
    latent_shape: tuple[int, ...],
    preferred: object = None,
) -> Kernels:
    """Set the UNet's attention kernels and return their name. The caller wraps its calls of the
    UNet in `kernels(name)`.

    `auto` is sdpa on a CPU. On a GPU it takes `preferred`, which a run has measured, where that
    runs here. Without it, UNet calls at `latent_shape` (batch, channels, height, width) are timed
    with each of `CANDIDATES`, and the fastest stays; all times are logged. Raises `UserError` for a
    `choice` that does not run here.
    """
    on_gpu = unet.device.type == "cuda"
    if choice == "auto":
        if not on_gpu:
            return _use(unet, "sdpa")
        if preferred is None:
            return _fastest(unet, latent_shape)
        return _preferred(unet, preferred, latent_shape)
    if choice != "sdpa" and not on_gpu:
        raise UserError(
            f"--model.attention is {choice}, but there is no GPU here and {choice} has no CPU "
            "kernels; use sdpa or auto."
        )
    try:
        _use(unet, choice)
        if choice != "sdpa":
            call_seconds(unet, latent_shape, choice)
    except _WHY_NOT as error:
        _use(unet, "sdpa")
        raise UserError(
            f"--model.attention is {choice}, but its kernels do not run here "
            f"({reason(error)}); use sdpa or auto."
        ) from error
    return choice


def kernels(name: str) -> AbstractContextManager:
    """Inside, the UNet's attention runs on the kernels of this name."""
    if name != "cudnn":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # What cuDNN does not take, such as a size of heads, goes to the next one.
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    return sdpa_kernel(order, set_priority=True)


def _preferred(
    unet: UNet2DConditionModel, preferred: object, latent_shape: tuple[int, ...]
) -> Kernels:
    """What the run has measured, or sdpa where this GPU does not run it."""
    name: Kernels = next((name for name in CANDIDATES if name == preferred), "sdpa")
    if name == "sdpa":
        return _use(unet, "sdpa")
    try:
        _use(unet, name)
        call_seconds(unet, latent_shape, name)
    except _WHY_NOT as error:
        log.warning("attention %s does not run here (%s); using sdpa", name, reason(error))
        return _use(unet, "sdpa")
    return name


def _fastest(unet: UNet2DConditionModel, latent_shape: tuple[int, ...]) -> Kernels:
    times: dict[Kernels, float] = {}
    said = []
    for name in CANDIDATES:
        try:
            _use(unet, name)
            times[name] = call_seconds(unet, latent_shape, name)
            said.append(f"{name} {times[name] * 1e3:.1f} ms")
        except _WHY_NOT as error:
            if name == "sdpa":
                raise
            said.append(f"{name} does not run here ({reason(error)})")
    best = min(times, key=lambda name: times[name] * (1 if name == "sdpa" else _WORTH))
    log.info("attention: %s for one UNet call; using %s", ", ".join(said), best)
    return _use(unet, best)


def _use(unet: UNet2DConditionModel, name: Kernels) -> Kernels:
    if name == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    else:
        unet.disable_xformers_memory_efficient_attention()
    return name


def call_seconds(unet: UNet2DConditionModel, latent_shape: tuple[int, ...], name: Kernels) -> float:
    """Seconds of one UNet call, the median of `_CALLS` after one that warms up."""
    import torch

    taken = []
    with torch.inference_mode(), kernels(name):
        latents = torch.zeros(latent_shape, device=unet.device, dtype=unet.dtype)
        conditions = some_conditions(unet, latent_shape[0])
        for _ in range(1 + _CALLS):
            torch.cuda.synchronize()
            start = time.perf_counter()
            unet(latents, 1, **conditions)
            torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def some_conditions(unet: UNet2DConditionModel, rows: int) -> dict:
    """What a UNet takes beside latents and timestep, of the right shapes; the values are zeros."""
    import torch

    config = unet.config

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(rows, *shape, device=unet.device, dtype=unet.dtype)

    found: dict = {"encoder_hidden_states": zeros(77, config.cross_attention_dim)}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        found["added_cond_kwargs"] = {"text_embeds": zeros(pooled), "time_ids": zeros(6)}
    return found
