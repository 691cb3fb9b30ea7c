"""DeepSpeed's configuration, and what has to be set so that it runs without a compiler on a machine
without CUDA.
"""

from __future__ import annotations

import os

import torch

from diffmix.config import TrainConfig
from diffmix.errors import UserError


def prepare_environment() -> None:
    """Call before `import deepspeed`. Without CUDA: the CPU accelerator, and gloo instead of an op
    that must be compiled.
    """
    if torch.cuda.is_available():
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def training_dtype(precision: str) -> torch.dtype:
    """The dtype of `train.precision`; `auto` is bf16 on GPUs that have it, fp16 on older ones, fp32
    on CPUs.
    """
    cuda = torch.cuda.is_available()
    if precision == "auto":
        precision = (
            ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
            if cuda
            else "fp32"
        )
    if precision == "fp16" and not cuda:
        raise UserError("--train.precision fp16 needs a GPU; use fp32 or bf16 on a CPU.")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def deepspeed_config(train: TrainConfig, world_size: int, dtype: torch.dtype) -> dict:
    """The dictionary for `deepspeed.initialize`: a pure function of the recipe, the number of
    workers and the dtype.
    """
    config: dict = {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": train.zero_stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": train.gradient_clip,
        "steps_per_print": 10**9,
    }
    if dtype != torch.float32:
        # Not DeepSpeed's own bf16 and fp16: they cast weights but not batch norms' statistics,
        # which torch's kernels refuse.
        config["torch_autocast"] = {"enabled": True, "dtype": str(dtype).removeprefix("torch.")}
    return config


def build_optimizer(model: torch.nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """A torch optimizer over all parameters that are trained: one from torch, so that DeepSpeed
    compiles none of its own.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay)
    return torch.optim.SGD(
        parameters, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
    )
