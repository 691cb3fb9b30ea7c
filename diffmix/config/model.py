"""Options of the group `model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class ModelConfig:
    """The text-to-image model and how it is run."""

    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Base model: a diffusers folder, a hub id, or `nano`, the embedded one."""
    revision: str | None = None
    """Revision of a hub model. None: the hub's default."""
    resolution: int | None = None
    """Side of the square that images are resized to for the diffusion model, in pixels. None: the
    model's own size.
    """
    precision: Precision = "auto"
    """Number format of the diffusion model: `auto` is bf16 on GPUs that have it, fp16 on older
    ones, fp32 on CPUs.
    """
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """Attention kernels: `auto` times both once on the real shapes and keeps the faster."""
    compile: bool = False
    """Compile the UNet's blocks with torch.compile when a mixer starts (pays off after a few
    hundred mixes on a GPU).
    """
    tiny_vae: str | None = None
    """Folder of an AutoencoderTiny (TAESD) that mixers use in place of the base's VAE: less work,
    softer detail. None: off.
    """
