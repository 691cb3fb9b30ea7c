"""Training the head alone and then everything, in a real DeepSpeed engine of one process, for every
ZeRO stage.
"""

from types import SimpleNamespace

import pytest
import torch

from diffmix.classifier.head import train_mode
from diffmix.classifier.model import build_model
from diffmix.config import TrainConfig
from engine.training.deepspeed_config import build_optimizer, deepspeed_config
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


@pytest.mark.parametrize("stage", [1, 3])
def test_why_elastic_training_is_refused_with_zero(tmp_path, stage):
    """DeepSpeed's universal checkpoint is its only way to another number of workers. When one of
    these fails, `diffmix.config_check` may refuse less.
    """
    import deepspeed
    from deepspeed.checkpoint import ds_to_universal

    def engine(optimizer: str, load_universal: bool = False):
        options = TrainConfig(batch_size=4, zero_stage=stage, optimizer=optimizer)
        settings = deepspeed_config(options, 1, torch.float32)
        settings["checkpoint"] = {"load_universal": load_universal}
        layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()
        model = torch.nn.Sequential(*layers)
        made, *_ = deepspeed.initialize(
            model=model,
            optimizer=build_optimizer(model, options),
            config=settings,
            dist_init_required=False,
        )
        return made

    def convert(optimizer: str):
        trained = engine(optimizer)
        loss = trained(torch.randn(4, 3, 8, 8)).square().mean()
        trained.backward(loss)
        trained.step()
        folder = tmp_path / optimizer
        trained.save_checkpoint(str(folder), tag="state")
        ds_to_universal.main(
            SimpleNamespace(
                input_folder=f"{folder}/state",
                output_folder=f"{folder}/universal",
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )
        (folder / "latest_universal").write_text("universal")
        return trained, folder

    with pytest.raises(KeyError, match="exp_avg"):
        convert("sgd")
    trained, folder = convert("adamw")
    loaded = engine("adamw", load_universal=True)
    loaded.load_checkpoint(str(folder), tag="universal")
    weights = full_weights(trained, stage), full_weights(loaded, stage)
    assert torch.equal(weights[0]["0.weight"], weights[1]["0.weight"])
    assert weights[0]["1.running_mean"].any()
    assert not weights[1]["1.running_mean"].any()
