"""Which attention kernels the UNet runs on."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal

from diffmix.errors import UserError, reason

if TYPE_CHECKING:
    from diffmix.generator.base_model import Pipeline

log = logging.getLogger(__name__)


def choose_attention(
    pipe: Pipeline, choice: Literal["auto", "xformers", "sdpa"], latent_shape: tuple[int, ...]
) -> str:
    """Set the UNet's attention kernels and return their name, `xformers` or `sdpa`.

    `auto` is sdpa on a CPU. On a GPU it times one UNet call at `latent_shape` (batch, channels,
    height, width) with each, keeps the faster one and logs both times. Raises `UserError` if
    `choice` is `xformers` and its kernels do not run here.
    """
    unet = pipe.unet
    on_gpu = unet.device.type == "cuda"
    if choice == "xformers" and not on_gpu:
        raise UserError(
            "--model.attention is xformers, but there is no GPU here and xformers has no CPU "
            "kernels; use sdpa or auto."
        )
    if choice == "sdpa" or not on_gpu:
        unet.disable_xformers_memory_efficient_attention()
        return "sdpa"
    sdpa = _seconds(pipe, latent_shape) if choice == "auto" else float("inf")
    try:
        unet.enable_xformers_memory_efficient_attention()
        xformers = _seconds(pipe, latent_shape)
    except (ImportError, NotImplementedError, ValueError, RuntimeError) as error:
        unet.disable_xformers_memory_efficient_attention()
        if choice == "xformers":
            raise UserError(
                "--model.attention is xformers, but its kernels do not run here "
                f"({reason(error)}); use sdpa or auto."
            ) from error
        log.info("attention: sdpa %.1f ms, xformers does not run here; using sdpa", sdpa * 1e3)
        return "sdpa"
    if choice == "xformers":
        return "xformers"
    faster = "xformers" if xformers < sdpa else "sdpa"
    log.info(
        "attention: sdpa %.1f ms, xformers %.1f ms for one UNet call; using %s",
        sdpa * 1e3,
        xformers * 1e3,
        faster,
    )
    if faster == "sdpa":
        unet.disable_xformers_memory_efficient_attention()
    return faster


def _seconds(pipe: Pipeline, latent_shape: tuple[int, ...]) -> float:
    """Seconds of one UNet call, after one that warms up."""
    import torch

    from diffmix.generator.prompt_encoder import PromptEncoder

    unet = pipe.unet
    latents = torch.zeros(latent_shape, device=unet.device, dtype=unet.dtype)
    text = (
        PromptEncoder(pipe, side=latent_shape[-1] * pipe.vae_scale_factor)
        .encode([""])
        .rows([0] * latent_shape[0])
        .unet_inputs()
    )
    start = 0.0
    with torch.inference_mode():
        for _ in range(2):
            torch.cuda.synchronize()
            start = time.perf_counter()
            unet(latents, 1, **text)
        torch.cuda.synchronize()
    return time.perf_counter() - start
