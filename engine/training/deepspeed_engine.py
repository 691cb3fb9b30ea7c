"""A classifier in a DeepSpeed engine: starting it, thawing its backbone, and its whole weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from diffmix.classifier.head import freeze_backbone, freeze_stages
from diffmix.config import TrainConfig
from engine.training.deepspeed_config import build_optimizer, deepspeed_config


def start_engine(
    model: torch.nn.Module, options: TrainConfig, world_size: int, dtype: torch.dtype, frozen: bool
) -> Any:
    """A DeepSpeed engine around a timm model. With `frozen` it trains the head alone, otherwise
    what `train.trained_stages` says.

    Frozen weights are left out of the optimizer, so they cost no gradients, no weight decay and no
    memory of ZeRO's. An engine therefore stays frozen: see `thaw`.
    """
    import deepspeed

    if frozen:
        freeze_backbone(model)
    elif options.trained_stages is not None:
        freeze_stages(model, options.trained_stages)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(model, options),
        config=deepspeed_config(options, world_size, dtype),
        dist_init_required=not dist.is_initialized(),
    )
    return engine


def thaw(
    engine: Any, model: torch.nn.Module, options: TrainConfig, world_size: int, dtype: torch.dtype
) -> Any:
    """A new engine that is not `frozen`, starting from those of `engine`, which it destroys.
    `model` is a new model of the same architecture; its weights are replaced.

    DeepSpeed decides once which weights ZeRO splits and steps, so a second engine is needed. Its
    optimizer starts without a state.
    """
    model.load_state_dict(full_weights(engine, options.zero_stage))
    engine.destroy()
    return start_engine(model, options, world_size, dtype, frozen=False)


def full_weights(engine: Any, zero_stage: int) -> dict[str, torch.Tensor]:
    """The whole model's state, by name. Every rank has to call it: ZeRO 3 splits the weights, and
    they are gathered from all ranks.
    """
    if zero_stage < 3:
        return engine.module.state_dict()
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        state = engine.module.state_dict()
        return {name: value.detach().cpu().clone() for name, value in state.items()}
