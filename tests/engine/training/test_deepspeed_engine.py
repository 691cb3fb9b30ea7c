"""Training the head alone and then everything, in a real DeepSpeed engine of one process, for every
ZeRO stage.
"""

import pytest
import torch

from diffmix.classifier.head import train_mode
from diffmix.classifier.model import build_model
from diffmix.config import TrainConfig
from engine.training.deepspeed_engine import full_weights, start_engine, thaw

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="written for DeepSpeed's CPU accelerator"),
    pytest.mark.usefixtures("process_group"),
]


def copy(engine, stage: int) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in full_weights(engine, stage).items()}


def train(engine, frozen: bool, steps: int = 2) -> None:
    train_mode(engine.module, frozen)
    for _ in range(steps):
        loss = engine(torch.randn(4, 3, 32, 32)).square().mean()
        engine.backward(loss)
        engine.step()


def moved(before: dict, after: dict) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_backbone_moves_only_after_the_thaw(tmp_path, stage):
    config = TrainConfig(
        model_name="resnet10t",
        pretrained=False,
        batch_size=4,
        zero_stage=stage,
        weight_decay=0.1,
        freeze_epochs=1,
    )
    torch.manual_seed(0)
    start = build_model(config, 3)
    first = {name: value.clone() for name, value in start.state_dict().items()}
    engine = start_engine(start, config, 1, torch.float32, frozen=True)
    train(engine, frozen=True)
    frozen = copy(engine, stage)
    assert moved(first, frozen) == {"fc.weight", "fc.bias"}

    engine.save_checkpoint(str(tmp_path), tag="state")  # a resumed engine trains the head alone too
    engine = start_engine(build_model(config, 3), config, 1, torch.float32, frozen=True)
    engine.load_checkpoint(str(tmp_path), tag="state")
    assert moved(frozen, copy(engine, stage)) == set()

    engine = thaw(engine, build_model(config, 3), config, 1, torch.float32)
    assert moved(frozen, copy(engine, stage)) == set(), (
        "the change of engines itself changes no weight"
    )
    train(engine, frozen=False)
    still = set(first) - moved(frozen, copy(engine, stage))
    assert not still, f"these never moved: {sorted(still)[:5]}"
    engine.destroy()


@pytest.mark.parametrize("stage", [0, 3])
def test_the_last_stages_alone_are_trained_before_and_after_a_thaw(stage):
    config = TrainConfig(
        model_name="resnet10t",
        pretrained=False,
        batch_size=4,
        zero_stage=stage,
        weight_decay=0.1,
        trained_stages=1,
    )
    weights = {name for name, _ in build_model(config, 3).named_parameters()}
    wanted = {name for name in weights if name.startswith(("layer4.", "fc."))}
    start = build_model(config, 3)
    first = {name: value.clone() for name, value in start.state_dict().items()}
    engine = start_engine(start, config, 1, torch.float32, frozen=False)
    train(engine, frozen=False)
    once = copy(engine, stage)
    assert moved(first, once) & weights == wanted
    assert "bn1.running_mean" in moved(first, once)
    engine = thaw(engine, build_model(config, 3), config, 1, torch.float32)
    train(engine, frozen=False)
    assert moved(once, copy(engine, stage)) & weights == wanted
    engine.destroy()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_trains_a_model_with_batch_norms(stage):
    config = TrainConfig(model_name="resnet10t", pretrained=False, batch_size=4, zero_stage=stage)
    start = build_model(config, 3)
    first = {name: value.clone() for name, value in start.state_dict().items()}
    engine = start_engine(start, config, 1, torch.bfloat16, frozen=False)
    train(engine, frozen=False)
    after = copy(engine, stage)
    engine.module.eval()
    logits = engine(torch.randn(4, 3, 32, 32))
    engine.destroy()
    assert logits.dtype == torch.bfloat16
    assert {value.dtype for value in after.values() if value.is_floating_point()} == {torch.float32}
    assert moved(first, after) == set(first)
    assert all(value.isfinite().all() for value in after.values())
