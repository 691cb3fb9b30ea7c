"""LoRA in four namings: all of them can be read, and diffusers and peft read what is
written.
"""

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


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("use_dora", True, "it is DoRA"),
        ("init_lora_weights", "pissa_niter_4", "needs a base changed by pissa_niter_4"),
        ("rank_pattern", {"to_k": 5}, r"to_k has rank 3, its settings say 5"),
    ],
)
def test_what_is_no_plain_lora_is_refused(tmp_path, weights, setting, value, sentence):
    lora.write_peft(weights, tmp_path, "base")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings[setting] = value
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=sentence):
        lora.read(tmp_path / "adapter_model.safetensors")


def test_half_a_layer_is_refused(weights):
    half = {key: value for key, value in weights.items() if not key.endswith("to_k.lora.up.weight")}
    with pytest.raises(ValueError, match="to_k has only one of its two matrices"):
        lora.to_diffusers(half)


LAYERS = {"to_q": (3, 12.0), "to_k": (2, 2.0), "to_v": (3, 1.5), "to_out.0": (4, 1.0)}
"""Layer -> its rank and its alpha."""


def of_layers(unet, endings: list[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Module -> random down, up and alpha, with other ranks and alphas in other layers."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for name, module in unet.named_modules():
        ending = next((end for end in endings if name.endswith(end)), None)
        if ending:
            rank, alpha = LAYERS.get(ending, (2, 6.0))
            outer, inner = module.weight.shape[:2]
            shape = module.weight.shape[2:]
            down = torch.randn((rank, inner, *shape), generator=generator)
            up = 0.05 * torch.randn((outer, rank, *[1] * len(shape)), generator=generator)
            found[name] = down, up, alpha
    return found


def by_formula(tiny_base, layers) -> torch.Tensor:
    """The output of W + alpha / rank * up @ down."""
    unet = fresh(tiny_base)
    for name, (down, up, alpha) in layers.items():
        change = (up.flatten(1) @ down.flatten(1)) * alpha / down.shape[0]
        weight = unet.get_submodule(name).weight
        weight.data += change.reshape(weight.shape)
    return output(unet)


def ours(tiny_base, file) -> torch.Tensor:
    unet = fresh(tiny_base)
    unet.load_lora_adapter(lora.read(file), prefix="unet")
    return output(unet)


def stock(tiny_base, file) -> torch.Tensor:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return output(pipe.unet)


def test_kohyas_names_and_alphas(tmp_path, tiny_base, unet):
    layers = of_layers(unet, [*LAYERS, "ff.net.0.proj", "ff.net.2", "proj_in", "resnets.0.conv1"])
    assert {name.split(".")[0] for name in layers} == {"down_blocks", "mid_block", "up_blocks"}
    state = {}
    for name, (down, up, alpha) in layers.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"] = down, up
        state[f"{key}.alpha"] = torch.tensor(alpha)
    file = tmp_path / "bird-000010.safetensors"
    save_file(state, file, {"ss_network_alpha": "99", "ss_network_dim": "3"})
    assert lora.find(tmp_path) == file
    assert set(lora.read(file)) == {
        f"unet.{name}.lora.{side}.weight" for name in layers for side in ("up", "down")
    }
    expected = by_formula(tiny_base, layers)
    assert close(ours(tiny_base, file), expected)
    # Stock diffusers forgets kohya's alphas of attention layers where they differ.
    same_alpha = {k: torch.tensor(6.0) if k.endswith(".alpha") else v for k, v in state.items()}
    save_file(same_alpha, file)
    assert torch.allclose(ours(tiny_base, file), stock(tiny_base, file), atol=2e-3)
    for key in [*state, "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"]:
        if key.endswith(".alpha"):
            continue
        other = {**state, key.replace("lora_up", "dora_scale").replace("lora_down", "hada_w1"): up}
        with pytest.raises(ValueError, match="is not LoRA of the UNet"):
            lora.to_diffusers(other)


@pytest.mark.parametrize("naming", ["diffusers", "diffusers.lora", "processors", "peft"])
def test_an_alpha_for_each_layer(tiny_base, unet, naming):
    layers = of_layers(unet, list(LAYERS))
    state = {}
    for name, (down, up, alpha) in layers.items():
        block, _, projection = name.removesuffix(".0").rpartition(".")
        first, second, third = {
            "diffusers": (f"unet.{name}.lora.down.weight", f"unet.{name}.lora.up.weight", name),
            "diffusers.lora": (
                f"{name}.lora.down.weight",
                f"{name}.lora.up.weight",
                f"{name}.lora",
            ),
            "processors": (
                f"{block}.processor.{projection}_lora.down.weight",
                f"{block}.processor.{projection}_lora.up.weight",
                f"{block}.processor.{projection}_lora",
            ),
            "peft": (f"{name}.lora_A.weight", f"{name}.lora_B.weight", name),
        }[naming]
        state |= {first: down, second: up, f"{third}.alpha": torch.tensor(alpha)}
    unet = fresh(tiny_base)
    unet.load_lora_adapter(lora.to_diffusers(state), prefix="unet")
    assert close(output(unet), by_formula(tiny_base, layers))
    with pytest.raises(ValueError, match="conv_in has an alpha and no matrices"):
        lora.to_diffusers({**state, "unet.conv_in.alpha": torch.tensor(1.0)})


@pytest.mark.parametrize(("rslora", "pattern"), [(False, False), (False, True), (True, False)])
def test_alpha_in_the_files_header(tmp_path, tiny_base, weights, rslora, pattern):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig

    settings = LoraConfig(
        r=3,
        lora_alpha=12,
        target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        alpha_pattern={"to_k": 3, "attn1.to_q": 24} if pattern else {},
        use_rslora=rslora,
    ).to_dict()
    layers = {key.removeprefix("unet."): value for key, value in weights.items()}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=settings
    )
    file = lora.find(tmp_path)

    def factor(key: str) -> float:
        if ".down." in key:
            return 1.0
        alpha = 12.0
        if pattern and "to_k" in key:
            alpha = 3.0
        if pattern and "attn1.to_q" in key:
            alpha = 24.0
        return alpha / (3**0.5 if rslora else 3)

    for key, value in lora.read(file).items():
        assert torch.allclose(value, factor(key) * weights[key])
    assert torch.allclose(ours(tiny_base, file), stock(tiny_base, file), atol=2e-3)
    assert lora.header_scale(file)


def test_a_header_that_says_nothing_of_the_scale(tmp_path, weights):
    from diffusers import StableDiffusionPipeline

    for number, settings in enumerate((None, {"r": 3, "lora_alpha": 3, "alpha_pattern": {}})):
        folder = tmp_path / str(number)
        layers = {key.removeprefix("unet."): value for key, value in weights.items()}
        StableDiffusionPipeline.save_lora_weights(
            folder, unet_lora_layers=layers, unet_lora_adapter_metadata=settings
        )
        assert lora.header_scale(lora.find(folder)) == ""
        assert same(lora.read(lora.find(folder)), weights)


def test_layers_of_other_ranks_are_exported_with_their_strength(tmp_path, tiny_base, unet):
    from peft import PeftModel

    layers = of_layers(unet, [*LAYERS, "ff.net.0.proj"])
    state = {}
    for name, (down, up, alpha) in layers.items():
        state |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        state[f"{name}.alpha"] = torch.tensor(alpha)
    lora.write_peft(lora.to_diffusers(state), tmp_path, "some/base")
    model = PeftModel.from_pretrained(fresh(tiny_base), tmp_path)
    expected = by_formula(tiny_base, layers)
    assert close(output(model.base_model.model), expected)
    assert close(ours(tiny_base, lora.find(tmp_path)), expected)


def test_a_lora_that_could_be_one_of_two_files(tmp_path, weights):
    assert lora.find(tmp_path) is None
    for name in ("one", "two", "learned_embeds"):
        save_file(weights, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        UserError, match=r"one\.safetensors, two\.safetensors\); call the right one"
    ):
        lora.find(tmp_path)


def test_layers_that_attention_processors_lack():
    state = {"unet.down_blocks.0.resnets.0.conv1.lora.down.weight": torch.zeros(3, 3)}
    with pytest.raises(ValueError, match="is no attention projection"):
        lora.to_attention_processors(state)


def test_the_files_are_what_the_names_say(tmp_path, weights):
    lora.write_peft(weights, tmp_path, "base")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") for key in stored)
    assert lora.rank_of(weights) == 3


def changed(weights, what) -> dict[str, torch.Tensor]:
    """The LoRA with its last layer changed."""
    down = [key for key in weights if key.endswith("down.weight")][-1]
    up = down.replace(".down.", ".up.")
    others = {key: value for key, value in weights.items() if key not in (down, up)}
    if what == "layer":
        name = down.replace("unet.", "unet.far_")
        return {
            **others,
            name: weights[down],
            name.replace(".down.", ".up."): weights[up],
        }
    if what == "in":
        return {**others, down: weights[down][:, :-1], up: weights[up]}
    if what == "out":
        return {**others, down: weights[down], up: weights[up][:-1]}
    return {**others, down: weights[down] * torch.nan, up: weights[up]}


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("layer", "for a layer far_.*which the base does not have"),
        ("in", "values in the base and .* in the LoRA"),
        ("out", "values in the base and .* in the LoRA"),
    ],
)
def test_lora_of_another_base_is_refused_whole(unet, weights, what, why):
    """peft would apply what fits, and warn in a worker's log."""
    lora.check_layers(weights, unet)
    with pytest.raises(ValueError, match=why):
        lora.check_layers(changed(weights, what), unet)


def test_values_that_are_not_finite_are_refused(tmp_path, weights):
    save_file(changed(weights, "nan"), tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match="has values that are not finite"):
        lora.read(tmp_path / "pytorch_lora_weights.safetensors")
