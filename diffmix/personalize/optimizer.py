"""AdamW over what is trained, in 32 or 8 bits."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from diffmix.errors import UserError

if TYPE_CHECKING:
    import torch

    from diffmix.config import PersonalizeConfig


def check_optimizer(personalize: PersonalizeConfig) -> None:
    """Raise `UserError` where 8-bit Adam is asked for and its library is not installed. Imports
    nothing.
    """
    if personalize.use_8bit_adam and find_spec("bitsandbytes") is None:
        raise UserError(
            "--personalize.use_8bit_adam needs bitsandbytes, which is not installed; `pip install bitsandbytes` or leave the option off."
        )


def make_optimizer(
    trained: dict[str, torch.nn.Parameter], personalize: PersonalizeConfig
) -> torch.optim.Optimizer:
    """AdamW with a learning rate each for new embedding rows (names that end in `.rows`) and LoRA
    matrices.

    Weight decay is the LoRA's alone: rows that few images touch would shrink to nothing. Raises
    `UserError` as `check_optimizer`.
    """
    import torch

    rows = [parameter for name, parameter in trained.items() if name.endswith(".rows")]
    lora = [parameter for name, parameter in trained.items() if not name.endswith(".rows")]
    groups = [
        {"params": rows, "lr": personalize.token_lr, "weight_decay": 0.0},
        {"params": lora, "lr": personalize.lora_lr, "weight_decay": personalize.weight_decay},
    ]
    check_optimizer(personalize)
    if personalize.use_8bit_adam:
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit([group for group in groups if group["params"]])
    # One kernel for the hundred small matrices of a LoRA: on a CPU core 0.6 ms a step for nano,
    # where the default loop takes 4.
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
