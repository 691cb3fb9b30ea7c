import pytest
import torch

from diffmix.config import TrainConfig
from diffmix.errors import UserError
from engine.training.deepspeed_config import build_optimizer, deepspeed_config, training_dtype


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_deepspeed_accepts_it(stage, dtype):
    from deepspeed.runtime.config import DeepSpeedConfig

    settings = deepspeed_config(
        TrainConfig(batch_size=12, zero_stage=stage, gradient_clip=1.5), 1, dtype
    )
    parsed = DeepSpeedConfig(settings)
    assert parsed.zero_optimization_stage == stage
    assert parsed.train_micro_batch_size_per_gpu == 12
    assert parsed.gradient_clipping == 1.5
    assert parsed.torch_autocast_enabled == (dtype != torch.float32)
    assert dtype in (torch.float32, parsed.torch_autocast_dtype)
    assert not parsed.bfloat16_config.enabled
    assert not parsed.float16_config.enabled


def test_workers_share_the_batch():
    assert (
        deepspeed_config(TrainConfig(batch_size=12), 3, torch.float32)[
            "train_micro_batch_size_per_gpu"
        ]
        == 4
    )


def test_optimizers():
    model = torch.nn.Linear(2, 2)
    sgd = build_optimizer(model, TrainConfig(lr=0.3, momentum=0.8, weight_decay=0.1))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.8
    assert isinstance(build_optimizer(model, TrainConfig(optimizer="adamw")), torch.optim.AdamW)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CPU's rule")
def test_precision_on_a_cpu():
    assert training_dtype("auto") == torch.float32
    assert training_dtype("bf16") == torch.bfloat16
    with pytest.raises(UserError, match="needs a GPU"):
        training_dtype("fp16")
