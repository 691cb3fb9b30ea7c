"""How mixes are made on a device, without making any: what `Mixer.made_with` will say."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from diffmix.config import MixConfig, ModelConfig
from diffmix.generator.base_model import base_path, device_and_dtype
from diffmix.generator.device.accumulation import number_format
from diffmix.generator.device.attention import choose_attention
from diffmix.generator.device.layout import faster_layout, set_layout

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

log = logging.getLogger(__name__)

_ON_CPUS = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_USUAL_BATCH = 16


def made_with_on_cpus(model: ModelConfig) -> dict[str, str | int]:
    """How mixers without a GPU make mixes."""
    attention = "sdpa" if model.attention == "auto" else model.attention
    layout = "nchw" if model.layout == "auto" else model.layout
    return _made_with("cpu", _ON_CPUS[model.precision], attention, layout, model)


def made_with_here(model: ModelConfig, mix: MixConfig) -> dict[str, str | int]:
    """How a mixer in this process would make mixes. On a GPU `model.attention auto` and
    `model.layout auto` are measured, on the base's architecture with random weights: kernels do not
    look at values.

    Raises `UserError` for a base model that cannot be used.
    """
    import torch

    device, dtype = device_and_dtype(model.precision)
    if device == "cpu":
        return made_with_on_cpus(model)
    attention, layout = model.attention, model.layout
    if attention == "auto" or layout == "auto":
        unet = _random_unet(model, device, dtype)
        set_layout([unet], layout, None, device)
        batch = mix.batch if isinstance(mix.batch, int) else _USUAL_BATCH
        shape = timed_shape(unet.config, model, mix, batch)
        attention = choose_attention(unet, attention, shape)
        layout = faster_layout(unet, shape, attention) if layout == "auto" else layout
    name = torch.cuda.get_device_name()
    precision = number_format(dtype, model.fp16_accumulation)
    return _made_with(name, precision, attention, layout, model)


def _random_unet(model: ModelConfig, device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """The base's UNet with random weights, made on the device."""
    import torch
    from diffusers import UNet2DConditionModel

    place = {"subfolder": "unet", "revision": model.revision}
    config = UNet2DConditionModel.load_config(base_path(model), **place)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(usual)


def timed_shape(
    unet: dict, model: ModelConfig, mix: MixConfig, batch: int
) -> tuple[int, int, int, int]:
    """The latents that a UNet of this configuration is called with: rows, channels, height,
    width.
    """
    side = model.resolution // 8 if model.resolution else unet["sample_size"]
    return batch * (1 + (mix.guidance_scale > 1)), unet["in_channels"], side, side


def _made_with(
    device: str, precision: str, attention: str, layout: str, model: ModelConfig
) -> dict[str, str | int]:
    return {
        "device": device,
        "precision": precision,
        "attention": attention,
        "layout": layout,
        "compile": model.compile_scope if model.compile else "off",
    }
