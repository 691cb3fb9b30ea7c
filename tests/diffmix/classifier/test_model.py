import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from diffmix.classifier.model import (
    build_model,
    check_input_size,
    describe,
    load_classifier,
    save_classifier,
)
from diffmix.config import TrainConfig
from diffmix.errors import UserError
from diffmix.storage import Folder

CONFIG = TrainConfig(model_name="resnet10t", pretrained=False, resolution=32, resize=32)


def test_saved_classifier_gives_the_same_logits_and_loads_into_timm(tmp_path):
    torch.manual_seed(0)
    model = build_model(CONFIG, 3).eval()
    folder = Folder(str(tmp_path / "classifier"))
    save_classifier(folder, model.state_dict(), describe(CONFIG, ["a", "ü", "黄"]))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        loaded, description = load_classifier(folder)
        assert torch.equal(loaded(image), model(image))
        plain = timm.create_model("resnet10t", num_classes=3).eval()
        plain.load_state_dict(load_file(tmp_path / "classifier" / "model.safetensors"))
        assert torch.equal(plain(image), model(image))
    assert description.class_names == ["a", "ü", "黄"]
    assert json.loads((tmp_path / "classifier" / "model.json").read_text())["resolution"] == 32


def test_starting_weights_from_a_file_leave_the_head_out(tmp_path):
    torch.manual_seed(0)
    source = build_model(CONFIG, 7)
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    config = TrainConfig(**{**vars(CONFIG), "checkpoint_path": str(path)})
    started = build_model(config, 3)
    assert torch.equal(started.conv1[0].weight, source.conv1[0].weight)
    assert started.fc.weight.shape[0] == 3


def test_weights_of_another_architecture(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"something": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="another architecture"):
        build_model(TrainConfig(**{**vars(CONFIG), "checkpoint_path": str(path)}), 3)


def test_a_model_of_fixed_size_is_made_for_the_resolution_that_is_asked_for(tmp_path):
    config = TrainConfig(
        model_name="vit_tiny_patch16_224", pretrained=False, resolution=64, resize=64
    )
    check_input_size(config)
    model = build_model(config, 3).eval()
    assert model.pos_embed.shape[1] == 1 + 4 * 4
    folder = Folder(str(tmp_path))
    save_classifier(folder, model.state_dict(), describe(config, ["a", "b", "c"]))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_classifier(folder)[0](image), model(image))


def test_a_resolution_that_a_model_cannot_have():
    with pytest.raises(
        UserError,
        match=r"crossvit_tiny_240 cannot take .* --train\.resolution 192 .*usual size is 240",
    ):
        check_input_size(
            TrainConfig(model_name="crossvit_tiny_240", pretrained=False, resolution=192)
        )


def test_unknown_model():
    with pytest.raises(UserError, match=r"did you mean resnet50"):
        describe(TrainConfig(model_name="resnet5O"), ["a"])


def test_no_classifier_in_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"holds no classifier"):
        load_classifier(Folder(str(tmp_path)))


def test_weights_that_cannot_be_downloaded():
    with pytest.raises(UserError, match=r"train\.checkpoint_path"):
        build_model(TrainConfig(model_name="resnet10t", pretrained=True), 3)


def test_the_description_keeps_how_images_are_resized(tmp_path):
    """A description that was written before the option means the shorter side."""
    folder = Folder(str(tmp_path))
    squashed = describe(TrainConfig(**{**vars(CONFIG), "resize_mode": "squash"}), ["a", "b"])
    save_classifier(folder, build_model(CONFIG, 2).state_dict(), squashed)
    assert load_classifier(folder)[1].resize_mode == "squash"
    stored = json.loads(folder.read("model.json"))
    del stored["resize_mode"]
    folder.write("model.json", json.dumps(stored).encode())
    assert load_classifier(folder)[1].resize_mode == "shorter"


def test_ldam_with_a_plain_head_has_timms_own():
    config = TrainConfig(**{**vars(CONFIG), "loss": "ldam", "ldam_head": "plain"})
    assert describe(config, ["a", "b"]).cosine_scale is None
    assert build_model(config, 2).fc.bias.requires_grad
