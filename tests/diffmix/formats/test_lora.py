"""LoRA in three namings: all of them can be read, and diffusers and peft read what is written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffmix.errors import UserError
from diffmix.formats import lora
from diffmix.generator.base_model import load_base


@pytest.fixture(scope="module")
def unet(tiny_base):
    from diffmix.config import ModelConfig

    return load_base(ModelConfig(base=str(tiny_base)), "cpu", torch.float32).unet


@pytest.fixture(scope="module")
def weights(unet) -> dict[str, torch.Tensor]:
    """Random LoRA of rank 3 on every attention projection, in diffusers' naming."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            found[f"unet.{name}.lora.down.weight"] = torch.randn(
                (3, module.in_features), generator=generator
            )
            found[f"unet.{name}.lora.up.weight"] = 0.1 * torch.randn(
                (module.out_features, 3), generator=generator
            )
    assert len(found) > 16
    return found


def output(unet) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn((2, 4, 8, 8), generator=generator)
    text = torch.randn((2, 5, 32), generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([3, 500]), text).sample


@pytest.fixture(scope="module")
def expected(tiny_base, weights) -> torch.Tensor:
    """The output by the formula W + up @ down."""
    unet = fresh(tiny_base)
    before = output(unet)
    for key, down in weights.items():
        if key.endswith("down.weight"):
            module = unet.get_submodule(key.removeprefix("unet.").removesuffix(".lora.down.weight"))
            module.weight.data += weights[key.replace(".down.", ".up.")] @ down
    after = output(unet)
    assert (after - before).abs().max() > 0.05
    return after


def fresh(tiny_base):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(tiny_base, subfolder="unet")


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4, rtol=1e-4)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_diffusers_reads_the_naming_of_attention_processors(tiny_base, weights, expected):
    old = lora.to_attention_processors(weights)
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    assert f"{block}.processor.to_out_lora.up.weight" in old
    unet = fresh(tiny_base)
    unet.load_lora_adapter(old, prefix=None)
    assert close(output(unet), expected)
    assert same(lora.to_diffusers(old), weights)
    assert same(lora.to_diffusers({f"unet.{key}": value for key, value in old.items()}), weights)


def test_diffusers_reads_its_own_naming(tiny_base, weights, expected):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipe.load_lora_weights(weights)
    assert close(output(pipe.unet), expected)
    assert same(lora.to_diffusers(weights), weights)


def test_peft_reads_what_is_written_for_it(tmp_path, tiny_base, weights, expected):
    from peft import PeftModel

    lora.write_peft(weights, tmp_path, "some/base")
    model = PeftModel.from_pretrained(fresh(tiny_base), tmp_path)
    assert close(output(model.base_model.model), expected)
    assert model.peft_config["default"].base_model_name_or_path == "some/base"
    assert same(lora.read(tmp_path / "adapter_model.safetensors"), weights)


@pytest.mark.parametrize(("alpha", "rslora"), [(3, False), (12, False), (12, True)])
def test_what_peft_writes_is_read_with_its_scale(tmp_path, tiny_base, alpha, rslora):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    config = LoraConfig(
        r=3,
        lora_alpha=alpha,
        use_rslora=rslora,
        target_modules=["to_q", "to_out.0"],
        init_lora_weights=False,
    )
    model = get_peft_model(fresh(tiny_base), config)
    theirs = output(model.base_model.model)
    model.save_pretrained(tmp_path)
    unet = fresh(tiny_base)
    unet.load_lora_adapter(lora.read(lora.find(tmp_path)), prefix="unet")
    assert close(output(unet), theirs)


def test_a_pickled_file(tmp_path, weights):
    halved = {key: value.half() for key, value in lora.to_attention_processors(weights).items()}
    torch.save(halved, tmp_path / "pytorch_lora_weights.bin")
    found = lora.read(lora.find(tmp_path))
    assert found.keys() == weights.keys()
    for key, value in found.items():
        assert value.dtype == torch.float32
        assert torch.allclose(value, weights[key], atol=1e-2)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("text_encoder.layers.0.q_proj.lora_A.weight", "is not LoRA of the UNet"),
        ("unet.conv_in.weight", "is not LoRA of the UNet"),
        ("lora_unet_down_blocks_0.lora_down.weight", "is not LoRA of the UNet"),
        (None, "it is empty"),
    ],
)
def test_other_weights_are_refused(tmp_path, key, reason):
    save_file({key: torch.zeros(1)} if key else {}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match=f"cannot be read as LoRA weights .*{reason}"):
        lora.read(lora.find(tmp_path))


def test_broken_files_are_refused(tmp_path, weights):
    for name in lora.FILES:
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(UserError, match=f"{name} cannot be read as LoRA weights"):
            lora.read(tmp_path / name)
    lora.write_peft(weights, tmp_path, "base")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["alpha_pattern"] = {"to_q": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="alpha_pattern"):
        lora.read(tmp_path / "adapter_model.safetensors")


def test_layers_that_attention_processors_lack():
    state = {"unet.down_blocks.0.resnets.0.conv1.lora.down.weight": torch.zeros(3, 3)}
    with pytest.raises(ValueError, match="is no attention projection"):
        lora.to_attention_processors(state)


def test_the_files_are_what_the_names_say(tmp_path, weights):
    lora.write_peft(weights, tmp_path, "base")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") for key in stored)
    assert lora.rank_of(weights) == 3
