"""A classifier in a DeepSpeed engine: starting it, its whole weights, and going on with the
backbone after its head was trained.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from diffmix.classifier.head import freeze_backbone
from diffmix.config import TrainConfig
from engine.training.deepspeed_config import build_optimizer, deepspeed_config


def start_engine(
    model: torch.nn.Module, train: TrainConfig, world_size: int, dtype: torch.dtype, frozen: bool
) -> Any:
    """A DeepSpeed engine around a timm model; with `frozen`, one that trains nothing but the head.

    The frozen weights are not in the optimizer at all, so neither gradients nor weight decay nor
    ZeRO's memory is spent on them. That also means that an engine stays frozen: see `thaw`.
    """
    import deepspeed

    if frozen:
        freeze_backbone(model)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(model, train),
        config=deepspeed_config(train, world_size, dtype),
        dist_init_required=not dist.is_initialized(),
    )
    return engine


def thaw(
    engine: Any, model: torch.nn.Module, train: TrainConfig, world_size: int, dtype: torch.dtype
) -> Any:
    """A new engine that trains all weights, starting from those of `engine`, which is ended.
    `model` is a fresh one of the same kind.

    DeepSpeed fixes at the start which weights ZeRO splits and steps, whence a second engine; the
    optimizer starts anew with it.
    """
    model.load_state_dict(full_weights(engine, train.zero_stage))
    engine.destroy()
    return start_engine(model, train, world_size, dtype, frozen=False)


def full_weights(engine: Any, zero_stage: int) -> dict[str, torch.Tensor]:
    """The whole model's state; gathered from all ranks where ZeRO 3 has split it, so every rank has
    to call it.
    """
    if zero_stage < 3:
        return engine.module.state_dict()
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        return {
            name: value.detach().cpu().clone() for name, value in engine.module.state_dict().items()
        }
