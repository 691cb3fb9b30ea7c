"""DeepSpeed's configuration, and what has to be set for it to run without a compiler on a machine
without CUDA.
"""

from __future__ import annotations

import logging
import os

import torch

from diffmix.config import TrainConfig
from diffmix.errors import UserError

log = logging.getLogger(__name__)


def prepare_environment() -> None:
    """Without CUDA: select DeepSpeed's CPU accelerator, and gloo in place of an op that would have
    to be compiled. Call it before `import deepspeed`.
    """
    if torch.cuda.is_available():
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def training_dtype(options: TrainConfig) -> torch.dtype:
    """The dtype of `train.precision`. `auto` is bf16 on GPUs that have it and fp32 on CPUs. On
    older GPUs it is fp16 at ZeRO 0, and fp32 from ZeRO 1 on. `UserError` for fp16 on a CPU.

    From ZeRO 1 on, DeepSpeed 0.19 clips fp16 gradients before it unscales them, and never changes
    the scale after an overflow; `diffmix.config_check` refuses it.
    """
    precision: str = options.precision
    if precision == "auto":
        precision = _best_precision()
        if precision == "fp16" and options.zero_stage:
            log.warning(
                "This GPU has no bf16, and fp16 is wrong with ZeRO %d: training in fp32. "
                "--train.zero_stage 0 trains in fp16.",
                options.zero_stage,
            )
            precision = "fp32"
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("--train.precision fp16 needs a GPU; use fp32 or bf16 on a CPU.")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _best_precision() -> str:
    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def deepspeed_config(options: TrainConfig, world_size: int, dtype: torch.dtype) -> dict:
    """The dictionary for `deepspeed.initialize`: a pure function of the `train` options, the number
    of workers and the dtype.
    """
    config: dict = {
        "train_batch_size": options.batch_size,
        "train_micro_batch_size_per_gpu": options.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": options.zero_stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": options.gradient_clip,
        "steps_per_print": 10**9,
    }
    if dtype != torch.float32:
        # Autocast, not DeepSpeed's own bf16 and fp16: those cast the weights but not the statistics
        # of batch norms, and torch's kernels refuse the mixture.
        config["torch_autocast"] = {"enabled": True, "dtype": str(dtype).removeprefix("torch.")}
    return config


def build_optimizer(model: torch.nn.Module, options: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over all parameters that require gradients. It is torch's, so that DeepSpeed
    compiles none of its own.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        parameters, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
