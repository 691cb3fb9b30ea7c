"""torch.compile of a mixer's models, for one shape each, and how many graphs it has made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from diffmix.generator.base_model import Pipeline

log = logging.getLogger(__name__)

_SHAPES = 64
Scope = Literal["blocks", "unet", "all"]


def compile_parts(pipe: Pipeline, scope: Scope) -> None:
    """Compile the UNet's transformer blocks, the UNet, or the UNet and the VAE's decoder. The first
    call of each shape takes minutes.

    The caller shows them few shapes: the blocks of Stable Diffusion 1.5 have four in each guidance
    mode, a UNet has one. Beyond torch's limit of 8 it would go on without compiling, slowly and
    with a line in a log. Here the limit is higher, and what is beyond it raises.
    """
    import torch

    torch._dynamo.config.recompile_limit = _SHAPES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    if scope == "blocks":
        pipe.unet.compile_repeated_blocks(dynamic=False)
    else:
        pipe.unet.compile(dynamic=False)
    if scope == "all":
        pipe.vae.decoder.compile(dynamic=False)
    log.info("compiled: %s, for one shape in each guidance mode", scope)


def graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    import torch

    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
