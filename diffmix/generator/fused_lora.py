"""A LoRA that is added to a UNet's weights, so that it costs nothing when images are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from diffmix.formats import lora

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@torch.no_grad()
def fuse(
    weights: dict[str, torch.Tensor],
    unet: UNet2DConditionModel,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Add LoRA matrices (`Concept.lora_weights`) to the UNet, which is on the CPU in float32. The
    layers that get one are then on `device` in `dtype`.

    Layers are added up one after the other, on the device, in float32: most of a LoRA would be lost
    in the rounding of half precision. Main memory gets no copy of what the device has: the base's
    weights are mapped from their files. Raises `ValueError` for a LoRA that does not fit.
    """
    lora.check_layers(weights, unet)
    ups = {key: value for key, value in weights.items() if key.endswith(".lora.up.weight")}
    layers = {key: key.removeprefix("unet.").removesuffix(".lora.up.weight") for key in ups}
    if any(unet.get_submodule(name).weight.ndim != 2 for name in layers.values()):
        # Convolutions, which this project's own concepts leave alone.
        unet.load_lora_adapter(weights, prefix="unet")
        unet.fuse_lora()
        unet.unload_lora()
        return
    for key, name in layers.items():
        down = weights[key.replace(".up.", ".down.")]
        layer = unet.get_submodule(name)
        change = ups[key].to(device) @ down.to(device)
        fused = (layer.weight.to(device) + change).to(dtype)
        layer.weight = torch.nn.Parameter(fused, layer.weight.requires_grad)
