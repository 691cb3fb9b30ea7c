"""torch.compile of a mixer's models, for one shape each, and how many graphs it has made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from diffmix.generator.base_model import Pipeline

log = logging.getLogger(__name__)

Scope = Literal["blocks", "unet", "all"]


def compile_parts(pipe: Pipeline, scope: Scope) -> None:
    """Compile the UNet's transformer blocks, the UNet, or the UNet and the VAE's decoder. The first
    call of each shape takes minutes.

    The caller shows them few shapes. A shape beyond torch's limit raises: torch would go on without
    compiling, at its old speed and with a line in a log.
    """
    import torch

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
