import pytest
import timm
import torch
from safetensors.torch import load_file

from diffmix.classifier.head import (
    CosineHead,
    freeze_backbone,
    freeze_stages,
    train_mode,
    unit_rows,
    use_cosine_head,
)
from diffmix.classifier.model import build_model, describe, load_classifier, save_classifier
from diffmix.config import TrainConfig
from diffmix.errors import UserError
from diffmix.storage import Folder

CONFIG = TrainConfig(
    model_name="resnet10t", pretrained=False, resolution=32, resize=32, loss="ldam"
)


def test_logits_are_scaled_cosines():
    torch.manual_seed(0)
    head, features = CosineHead(7, 4, 30.0), torch.randn(5, 7)
    expected = 30 * torch.nn.functional.cosine_similarity(
        features[:, None], head.weight[None], dim=-1
    )
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_ldam_models_have_a_cosine_head_and_others_do_not(name):
    config = TrainConfig(model_name=name, pretrained=False, loss="ldam", ldam_scale=7.0)
    model = build_model(config, 3).eval()
    assert isinstance(model.get_classifier(), CosineHead)
    side = model.pretrained_cfg["input_size"][-1]
    assert model(torch.randn(2, 3, side, side)).abs().max() <= 7.001
    assert not isinstance(
        build_model(TrainConfig(model_name=name, pretrained=False), 3).get_classifier(), CosineHead
    )


def test_a_distilled_models_two_heads_are_trained_alone():
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, depth=1)
    freeze_backbone(model)
    train_mode(model, frozen=True)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        f"{head}.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")
    }
    assert model.head.training
    assert model.head_dist.training
    assert not model.blocks.training


@pytest.mark.parametrize("trained", range(5))
def test_stages_are_frozen_by_the_references_names(trained):
    """Its `linear`, `stages4+linear`, ... `stages1-4+linear`, by torchvision's names, which are
    timm's.
    """
    model = timm.create_model("resnet50", num_classes=3)
    freeze_stages(model, trained)
    words = ["fc", *(f"layer{stage}" for stage in range(4, 4 - trained, -1))]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == any(word in name for word in words), name


def test_stages_of_other_models_are_timms_groups():
    model = timm.create_model("test_vit", num_classes=3)
    freeze_stages(model, 1)
    last = f"blocks.{len(model.blocks) - 1}."
    assert all(
        parameter.requires_grad == name.startswith((last, "norm.", "fc_norm.", "head."))
        for name, parameter in model.named_parameters()
    )
    with pytest.raises(UserError, match=r"trained_stages is 99, but the model has \d+ stages"):
        freeze_stages(model, 99)


def test_models_without_a_linear_head():
    model = timm.create_model("resnet10t", num_classes=0)
    with pytest.raises(UserError, match="one linear head"):
        use_cosine_head(model, 30.0)


def test_saved_cosine_classifier_gives_the_same_logits_and_plain_timm_the_same_classes(tmp_path):
    torch.manual_seed(0)
    model = build_model(CONFIG, 5).eval()
    with torch.no_grad():
        # Lengths that change the answers of a plain linear layer.
        model.get_classifier().weight *= torch.arange(1, 6)[:, None]
    folder = Folder(str(tmp_path))
    save_classifier(folder, unit_rows(model.state_dict(), model), describe(CONFIG, list("abcde")))
    image = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        loaded, _ = load_classifier(folder)
        torch.testing.assert_close(loaded(image), model(image))
        plain = timm.create_model("resnet10t", num_classes=5).eval()
        plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert torch.equal(plain(image).argsort(1), model(image).argsort(1))


@pytest.mark.parametrize("loss", ["ce", "ldam"])
def test_a_frozen_backbone_keeps_weights_and_statistics(loss):
    torch.manual_seed(0)
    model = build_model(TrainConfig(**{**vars(CONFIG), "loss": loss}), 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_backbone(model)
    train_mode(model, frozen=True)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1
    )
    model(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == ({"fc.weight", "fc.bias"} if loss == "ce" else {"fc.weight"})
    train_mode(model, frozen=False)
    model(torch.randn(4, 3, 32, 32))
    assert not torch.equal(model.state_dict()["bn1.running_mean"], before["bn1.running_mean"])
