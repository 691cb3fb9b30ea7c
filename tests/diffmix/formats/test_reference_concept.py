"""A concept in the reference implementation's form makes the same images, in both directions."""

import pytest
import torch
from safetensors.torch import load_file

from diffmix.config import MixConfig
from diffmix.errors import UserError
from diffmix.formats import lora, reference_concept
from diffmix.generator.base_model import base_fingerprint, load_base
from diffmix.generator.concept import Concept
from diffmix.generator.mixer import Mixer
from diffmix.images import decode
from diffmix.personalize.modules import add_lora
from diffmix.plan import MixSpec


@pytest.fixture(scope="module")
def ours(tmp_path_factory, tiny_base, tiny_real) -> Concept:
    """A concept with random tokens and LoRA."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    from diffmix.config import ModelConfig

    model = ModelConfig(base=str(tiny_base), precision="fp32")
    generator = torch.Generator().manual_seed(1)
    tokens = {name: f"<class_{i}>" for i, name in enumerate(tiny_real.class_names)}
    pipe = load_base(model, "cpu", torch.float32)
    add_lora(pipe.unet, 3, seed=0)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    description = dict.fromkeys(("revision",), None) | {
        "class_names": tiny_real.class_names,
        "superclass": tiny_real.superclass,
        "tokens": tokens,
        "vectors_per_token": 1,
        "lora_rank": 3,
        "base": model.base,
        "base_fingerprint": base_fingerprint(model),
        "steps": 1,
        "seed": 0,
        "data_fingerprint": "",
    }
    embeds = {token: torch.randn((1, 32), generator=generator) for token in tokens.values()}
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    return Concept(**description).save(tmp_path_factory.mktemp("concept") / "ours", embeds, weights)


def write(concept: Concept, folder) -> None:
    reference_concept.write(folder, concept.tokens, concept.embeds(), concept.lora_weights())


def image(model, real, folder, class_names=None) -> bytes:
    mixer = Mixer(
        model,
        MixConfig(num_inference_steps=4, guidance_scale=3.0),
        class_names or real.class_names,
        real.superclass,
        folder,
    )
    return mixer.mix(
        [MixSpec(mix_id=0, source_id="a", source_label=0, target_label=2, strength=0.7, seed=1)],
        [real.image_bytes(0)],
    )[0].tobytes()


def without_lora(model, real, concept, folder) -> bytes:
    reference_concept.write(folder, concept.tokens, concept.embeds(), {})
    return image(model, real, folder)


def test_the_files_of_the_reference_make_the_same_image(tmp_path, tiny_model, tiny_real, ours):
    write(ours, tmp_path / "reference")
    assert sorted(file.name for file in (tmp_path / "reference").iterdir()) == [
        "learned_embeds-steps-last.bin",
        "pytorch_lora_weights.safetensors",
    ]
    weights = load_file(tmp_path / "reference" / "pytorch_lora_weights.safetensors")
    assert all(".processor.to_" in key for key in weights)
    concept = Concept.load(tmp_path / "reference")
    assert (concept.class_names, concept.lora_rank) == (tiny_real.class_names, 3)
    expected = image(tiny_model, tiny_real, ours.folder)
    assert image(tiny_model, tiny_real, tmp_path / "reference") == expected
    assert expected != decode(tiny_real.image_bytes(0)).tobytes()
    assert without_lora(tiny_model, tiny_real, ours, tmp_path / "tokens") != expected

    # peft's files beside the reference implementation's tokens.
    lora.write_peft(ours.lora_weights(), tmp_path / "tokens", "base")
    assert image(tiny_model, tiny_real, tmp_path / "tokens") == expected


def test_what_the_references_loader_finds(tmp_path, ours, tiny_real):
    """`load_diffmix_embeddings` needs these keys, one vector per token, and no slash in a name."""
    slashed = {f"F/A {name}": token for name, token in ours.tokens.items()}
    reference_concept.write(tmp_path, slashed, ours.embeds(), ours.lora_weights())
    stored = torch.load(tmp_path / "learned_embeds-steps-last.bin", weights_only=True)
    assert set(stored) == {"learned_embeds_dict", "name2placeholder", "placeholder2name"}
    assert stored["name2placeholder"] == {
        f"F A {name}": f"<class_{i}>" for i, name in enumerate(tiny_real.class_names)
    }
    assert stored["placeholder2name"] == {
        token: name for name, token in stored["name2placeholder"].items()
    }
    for token, row in stored["learned_embeds_dict"].items():
        assert torch.equal(row, ours.embeds()[token][0])


def test_classes_are_found_under_other_spellings(tmp_path, tiny_model, tiny_real, ours):
    write(ours, tmp_path)
    concept = Concept.load(tmp_path)
    spelled = ["001.red_fox", "Gray/Wolf", "füchslein_狐", "LYNX"]
    concept.check_matches(spelled, "any base", "here")
    assert [concept.token(name) for name in spelled] == [f"<class_{i}>" for i in range(4)]
    assert concept.token("moose") is None
    with pytest.raises(UserError, match="it has no 'moose'"):
        concept.check_matches([*spelled, "moose"], "any base", "here")
    expected = image(tiny_model, tiny_real, ours.folder)
    assert image(tiny_model, tiny_real, tmp_path, spelled) == expected


def test_what_the_reference_cannot_hold(tmp_path, ours):
    two = {token: torch.zeros(2, 32) for token in ours.tokens.values()}
    with pytest.raises(UserError, match="several vectors per token"):
        reference_concept.write(tmp_path, ours.tokens, two, {})
    other = {"unet.conv_in.lora.down.weight": torch.zeros(3, 3)}
    with pytest.raises(UserError, match="cannot be written for the reference"):
        reference_concept.write(tmp_path, ours.tokens, ours.embeds(), other)


def test_tokens_that_are_none(tmp_path):
    (tmp_path / "learned_embeds-steps-last.bin").write_bytes(b"no pickle")
    with pytest.raises(UserError, match="cannot be read as the reference"):
        Concept.load(tmp_path)
    torch.save({"learned_embeds_dict": {}}, tmp_path / "learned_embeds-steps-last.bin")
    with pytest.raises(UserError, match="cannot be read as the reference"):
        Concept.load(tmp_path)
