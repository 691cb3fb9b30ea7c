"""The memory layout of the models' weights and images: NCHW, or NHWC (channels last)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, get_args

from diffmix.config.model import Layout
from diffmix.generator.device.attention import call_seconds

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from diffmix.config.model import Kernels

log = logging.getLogger(__name__)

_WORTH = 1.02
"""How much faster than NHWC NCHW has to be: less is noise."""


def set_layout(parts: list[Any], choice: str, preferred: object, device: str) -> Layout:
    """Bring models into a layout, and return its name. `auto` is NCHW on a CPU. On a GPU it is
    `preferred`, which a run has measured, and without that NHWC.
    """
    import torch

    usual: Layout = "nchw" if device == "cpu" else "nhwc"
    if choice == "auto" and device != "cpu" and preferred in get_args(Layout):
        choice = str(preferred)
    layout: Layout = next((name for name in get_args(Layout) if name == choice), usual)
    nhwc = layout == "nhwc"
    for part in parts:
        if nhwc or device != "cpu":
            part.to(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
    return layout


def faster_layout(
    unet: UNet2DConditionModel, latent_shape: tuple[int, ...], kernels: Kernels
) -> Layout:
    """The layout in which a GPU is faster with one call of the UNet, which is left in NHWC.

    Convolutions want NHWC. torch's group norm gives NCHW back, so copies may cost more than that
    saves.
    """
    times: dict[str, float] = {}
    for name in ("nchw", "nhwc"):
        set_layout([unet], name, None, unet.device.type)
        times[name] = call_seconds(unet, latent_shape, kernels)
    best: Layout = "nchw" if times["nchw"] * _WORTH < times["nhwc"] else "nhwc"
    log.info(
        "layout: nhwc %.1f ms, nchw %.1f ms for one UNet call; using %s",
        times["nhwc"] * 1e3,
        times["nchw"] * 1e3,
        best,
    )
    return best
