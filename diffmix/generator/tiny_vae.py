"""An AutoencoderTiny (TAESD) in place of the base model's VAE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from diffmix.errors import UserError, reason
from diffmix.storage import local_version

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def check_tiny_vae(path: str | None) -> None:
    """Raise `UserError` if `path` is set and is not a folder of an AutoencoderTiny."""
    if not path:
        return
    try:
        text = (Path(local_version(path)) / "config.json").read_text(encoding="utf-8")
        kind = json.loads(text).get("_class_name")
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind != "AutoencoderTiny":
        raise UserError(
            f"{path} is not a folder of an AutoencoderTiny ({kind or 'no readable config.json'}); "
            "set --model.tiny_vae to one."
        )


def use_tiny_vae(pipe: StableDiffusionPipeline, path: str) -> None:
    """Put the tiny VAE at `path` into the pipeline, on the CPU in fp32.

    It encodes without a posterior to draw from, and its latents are scaled as the UNet expects.
    Raises `UserError` if it cannot be read or makes other latents than the UNet takes.
    """
    from diffusers import AutoencoderTiny
    from safetensors import SafetensorError

    check_tiny_vae(path)
    try:
        vae = AutoencoderTiny.from_pretrained(local_version(path))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(
            f"The AutoencoderTiny in {path} cannot be loaded ({reason(error)}); copy it again."
        ) from error
    has = (vae.config.latent_channels, 2 ** (len(vae.config.encoder_block_out_channels) - 1))
    wants = (pipe.unet.config.in_channels, pipe.vae_scale_factor)
    if has != wants:
        raise UserError(
            f"The AutoencoderTiny in {path} makes latents of {has[0]} channels at 1/{has[1]} of "
            "the size, but the base model "
            f"takes {wants[0]} at 1/{wants[1]}; choose another --model.tiny_vae."
        )
    pipe.vae = vae
