import pytest
import torch

from diffmix.config import Config, TrainConfig
from diffmix.config_check import check
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
    assert training_dtype(TrainConfig(precision="auto")) == torch.float32
    assert training_dtype(TrainConfig(precision="bf16")) == torch.bfloat16
    with pytest.raises(UserError, match="needs a GPU"):
        training_dtype(TrainConfig(precision="fp16"))


@pytest.mark.parametrize(
    ("has_bf16", "stage", "dtype"),
    [
        (True, 0, torch.bfloat16),
        (True, 2, torch.bfloat16),
        (False, 0, torch.float16),
        (False, 1, torch.float32),
        (False, 3, torch.float32),
    ],
)
def test_auto_on_a_gpu_never_takes_fp16_with_zero(monkeypatch, caplog, has_bf16, stage, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert training_dtype(TrainConfig(zero_stage=stage)) == dtype
    assert ("training in fp32" in caplog.text) == (dtype == torch.float32)


def test_fp16_with_zero_is_refused():
    check(Config(train=TrainConfig(precision="fp16")))
    for stage in (1, 2, 3):
        with pytest.raises(UserError, match=rf"train\.precision is fp16.*zero_stage {stage}"):
            check(Config(train=TrainConfig(precision="fp16", zero_stage=stage)))
