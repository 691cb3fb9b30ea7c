"""AdamW for rows and LoRA, in 32 or 8 bits."""

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
            "--personalize.use_8bit_adam needs bitsandbytes, which is not installed; "
            "`pip install bitsandbytes` or leave the option off."
        )


def make_optimizer(
    trained: dict[str, torch.nn.Parameter], personalize: PersonalizeConfig
) -> torch.optim.Optimizer:
    """AdamW with two learning rates: one for new embedding rows (names that end in `.rows`), one
    for LoRA matrices.

    By default only the LoRA decays: rows of classes with few images would shrink to nothing. Raises
    `UserError` as `check_optimizer` does.
    """
    import torch

    rows = [parameter for name, parameter in trained.items() if name.endswith(".rows")]
    lora = [parameter for name, parameter in trained.items() if not name.endswith(".rows")]
    decay, token_decay = personalize.weight_decay, personalize.token_weight_decay
    groups = [
        {"params": rows, "lr": personalize.token_lr, "weight_decay": token_decay},
        {"params": lora, "lr": personalize.lora_lr, "weight_decay": decay},
    ]
    groups = [group for group in groups if group["params"]]
    check_optimizer(personalize)
    if personalize.use_8bit_adam:
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(groups)
    # Fused: one kernel for the hundred small matrices of a LoRA. On a CPU core a step of nano takes
    # 0.6 ms with it, and 4 ms with torch's default loop.
    return torch.optim.AdamW(groups, fused=True)
