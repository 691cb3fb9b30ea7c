"""Options of the group `model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import PositiveInt

from diffmix.options.markers import Path, PathOrName, Unit, Usual

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Kernels = Literal["sdpa", "cudnn", "xformers"]
Layout = Literal["nhwc", "nchw"]
Attention = Literal["auto", "sdpa", "cudnn", "xformers"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The text-to-image model."""

    base: Usual[PathOrName] = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Base model: a diffusers folder, its URI, a hub id or `nano`, the embedded one."""
    revision: str | None = None
    """Revision of a hub model. None: the hub's default."""
    resolution: Annotated[PositiveInt | None, Unit("pixels")] = None
    """Side of the square that the diffusion model works on. None: the model's own size."""
    precision: Precision = "auto"
    """Number format of the diffusion model. `auto` is bf16 on GPUs that have it, fp16 on older
    GPUs, and fp32 on CPUs.
    """
    fp16_accumulation: bool = False
    """Add up the UNet's matrix products in fp16 too, with `precision fp16`. GeForce GPUs are faster
    so, data center GPUs are not. Off, because images are less exact.
    """
    attention: Attention = "auto"
    """Attention kernels. `auto` is sdpa on CPUs. On GPUs it times all three once in a run, where
    mixers will run, and all mixers use the fastest.
    """
    layout: Literal["auto", "nhwc", "nchw"] = "auto"
    """Memory layout of the UNet and the VAE. `auto` is nchw on CPUs. On GPUs both are timed with
    the attention kernels, and the faster one is used.
    """
    compile: bool = False
    """Compile the UNet with torch.compile when a mixer starts. On a GPU this pays off after a few
    hundred mixes.
    """
    compile_scope: Literal["blocks", "unet", "all"] = "blocks"
    """What `compile` compiles. It is the UNet's transformer blocks, all of the UNet, or the UNet
    and the VAE's decoder. More takes minutes longer to start.
    """
    tiny_vae: Path | None = None
    """Folder or URI of an AutoencoderTiny (TAESD) that replaces the base's VAE in mixers. It is
    faster, and details are softer. None: off.
    """
