"""Options of the group `model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import PositiveInt

from diffmix.options.markers import Unit, Usual

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The text-to-image model."""

    base: Usual[str] = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Base model: a diffusers folder, its URI, a hub id or `nano`, the embedded one."""
    revision: str | None = None
    """Revision of a hub model. None: the hub's default."""
    resolution: Annotated[PositiveInt | None, Unit("pixels")] = None
    """Side of the square that the diffusion model works on. None: the model's own size."""
    precision: Precision = "auto"
    """Number format of the diffusion model. `auto` is bf16 on GPUs that have it, fp16 on older
    GPUs, and fp32 on CPUs.
    """
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """Attention kernels. `auto` times both once on the real shapes and keeps the faster."""
    compile: bool = False
    """Compile the UNet's blocks with torch.compile when a mixer starts. On a GPU this pays off
    after a few hundred mixes.
    """
    tiny_vae: str | None = None
    """Folder or URI of an AutoencoderTiny (TAESD) that replaces the base's VAE in mixers. It is
    faster, and details are softer. None: off.
    """
