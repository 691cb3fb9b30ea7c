"""Concept folders: written, read by us and by stock diffusers, refused where they do not fit."""

import hashlib
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffmix.config import MixConfig
from diffmix.datasets.class_names import spoken
from diffmix.errors import UserError
from diffmix.generator.base_model import base_fingerprint, load_base
from diffmix.generator.concept import Concept, prompt
from diffmix.generator.mixer import Mixer
from diffmix.images import decode
from diffmix.personalize.modules import add_lora
from diffmix.plan import MixSpec


def random_concept(folder, model, real, vectors=1, lora=True) -> Concept:
    """A concept whose weights are drawn, not trained."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    generator = torch.Generator().manual_seed(1)
    tokens = {name: f"<class_{i}>" for i, name in enumerate(real.class_names)}
    embeds = (
        {token: torch.randn((vectors, 32), generator=generator) for token in tokens.values()}
        if vectors
        else {}
    )
    pipe = load_base(model, "cpu", torch.float32)
    add_lora(pipe.unet, 3, seed=0)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet)) if lora else {}
    concept = Concept(
        class_names=real.class_names,
        superclass=real.superclass,
        tokens=tokens if vectors else {},
        vectors_per_token=vectors,
        lora_rank=3 if lora else 0,
        base=model.base,
        revision=None,
        base_fingerprint=base_fingerprint(model),
        steps=1,
        seed=0,
        data_fingerprint=real.fingerprint,
        settings={"steps": 1},
    )
    return concept.save(folder, embeds, weights)


def stock_with(base, folder):
    """The stock image-to-image pipeline with a concept loaded as the module's docstring says."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
    from safetensors.torch import load_file

    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(base)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    embeds = folder / "learned_embeds.safetensors"
    if embeds.exists():
        pipe.load_textual_inversion([{token: rows} for token, rows in load_file(embeds).items()])
    if (folder / "pytorch_lora_weights.safetensors").exists():
        pipe.load_lora_weights(folder)
    return pipe


def psnr(one: Image.Image, other: Image.Image) -> float:
    import numpy as np

    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(10 * np.log10(255**2 / max(1e-9, (difference**2).mean())))


@pytest.mark.parametrize(
    ("strategy", "vectors", "lora"),
    [("diff-mix", 1, True), ("ti-mix", 3, False), ("diff-mix", 0, True)],
)
def test_stock_diffusers_makes_the_same_image_from_the_folder(
    tmp_path, tiny_base, tiny_model, tiny_real, strategy, vectors, lora
):
    concept = random_concept(tmp_path / "concept", tiny_model, tiny_real, vectors, lora)
    config = MixConfig(strategy=strategy, num_inference_steps=6, guidance_scale=3.0)
    specs = [
        MixSpec(
            mix_id=i,
            source_id=tiny_real.image_ids[i],
            source_label=0,
            target_label=(i + 1) % 4,
            strength=0.7,
            seed=40 + i,
        )
        for i in range(2)
    ]
    sources = [tiny_real.image_bytes(i) for i in range(2)]
    mixer = Mixer(tiny_model, config, tiny_real.class_names, tiny_real.superclass, concept.folder)
    images = mixer.mix(specs, sources)
    pipe = stock_with(tiny_base, concept.folder)
    for spec, source, image in zip(specs, sources, images, strict=True):
        name = tiny_real.class_names[spec.target_label]
        who = f"<class_{spec.target_label}>" if vectors else spoken(name)
        options = {"strength": spec.strength, "num_inference_steps": 6, "guidance_scale": 3.0}
        alone = pipe(
            f"a photo of a {who} animal",
            decode(source),
            generator=torch.Generator().manual_seed(spec.seed),
            **options,
        ).images[0]
        value = psnr(image, alone)
        print(f"{strategy}, {vectors} vectors: {value:.1f} dB")
        assert value > 40
    base_only = Mixer(
        tiny_model,
        MixConfig(strategy="real-mix", num_inference_steps=6, guidance_scale=3.0),
        *_names(tiny_real),
    )
    assert psnr(base_only.mix(specs, sources)[0], images[0]) < 35


def test_the_strategy_decides_what_of_the_concept_is_used(tmp_path, tiny_model, tiny_real):
    concept = random_concept(tmp_path / "concept", tiny_model, tiny_real, vectors=2)
    specs = [
        MixSpec(
            mix_id=0,
            source_id=tiny_real.image_ids[0],
            source_label=0,
            target_label=1,
            strength=0.9,
            seed=7,
        )
    ]
    sources = [tiny_real.image_bytes(0)]
    images = {}
    for generator in ("real", "ti", "diff"):
        config = MixConfig(strategy=f"{generator}-mix", num_inference_steps=5, guidance_scale=3.0)
        mixer = Mixer(tiny_model, config, *_names(tiny_real), concept.folder)
        images[generator] = mixer.mix(specs, sources)[0]
        assert mixer.prompts[1] == (
            "a photo of a gray wolf animal"
            if generator == "real"
            else "a photo of a <class_1> animal"
        )
    assert (
        max(
            psnr(images[a], images[b])
            for a, b in (("real", "ti"), ("ti", "diff"), ("real", "diff"))
        )
        < 40
    )


def _names(real):
    return real.class_names, real.superclass


def test_a_folder_round_trips_and_is_replaced_whole(tmp_path, tiny_model, tiny_real):
    folder = tmp_path / "deep" / "concept"
    first = random_concept(folder, tiny_model, tiny_real)
    assert Concept.load(str(folder)) == first
    fingerprint = Concept.load(folder).fingerprint
    moved = folder.rename(tmp_path / "moved")
    assert Concept.load(moved).fingerprint == fingerprint

    second = random_concept(moved, tiny_model, tiny_real, lora=False)
    assert second.fingerprint != fingerprint
    assert sorted(file.name for file in moved.iterdir()) == [
        "concept.json",
        "learned_embeds.safetensors",
    ]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
    assert (
        json.loads((moved / "concept.json").read_text(encoding="utf-8"))["class_names"]
        == tiny_real.class_names
    )


def test_the_fingerprint_is_of_all_that_changes_images(tmp_path, tiny_model, tiny_real):
    """Of a LoRA file of any name, and of the scale in a file's header, which was not heeded once. A
    concept of ours has the fingerprint that it always had.
    """
    concept = random_concept(tmp_path / "concept", tiny_model, tiny_real)
    folder, name = tmp_path / "concept", "pytorch_lora_weights.safetensors"
    assert concept.fingerprint == of_the_bytes(folder)

    weights = load_file(folder / name)
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 3, "unet.lora_alpha": 12})}
    save_file(weights, folder / name, metadata=header)
    assert concept.fingerprint != of_the_bytes(folder)

    save_file(weights, folder / name)
    (folder / name).rename(folder / "by_kohya.safetensors")
    whole = concept.fingerprint
    changed = {key: 2 * value for key, value in weights.items()}
    save_file(changed, folder / "by_kohya.safetensors")
    assert concept.fingerprint != whole


def of_the_bytes(folder) -> str:
    """The fingerprint of a concept as version 0.1 made it."""
    description = json.loads((folder / "concept.json").read_text(encoding="utf-8"))
    del description["format_version"]
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in ("learned_embeds.safetensors", "pytorch_lora_weights.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def test_the_reference_implementations_folder_is_read(tmp_path, tiny_model, tiny_real):
    ours = random_concept(tmp_path / "concept", tiny_model, tiny_real)
    folder = tmp_path / "reference"
    folder.mkdir()
    (tmp_path / "concept" / "pytorch_lora_weights.safetensors").rename(
        folder / "pytorch_lora_weights.safetensors"
    )
    rows = {token: row[0] for token, row in ours.embeds().items()}
    names = {token: name for name, token in ours.tokens.items()}
    stored = {
        "learned_embeds_dict": rows,
        "name2placeholder": ours.tokens,
        "placeholder2name": names,
    }
    torch.save(stored, folder / "learned_embeds-steps-last.bin")
    concept = Concept.load(folder)
    assert concept.lora_rank == 3
    assert len(concept.fingerprint) == 64
    concept.check_matches(tiny_real.class_names, "any base", str(folder))
    specs, sources = (
        [MixSpec(mix_id=0, source_id="a", source_label=0, target_label=2, strength=0.7, seed=1)],
        [tiny_real.image_bytes(0)],
    )
    config = MixConfig(num_inference_steps=4, guidance_scale=3.0)
    theirs = Mixer(tiny_model, config, *_names(tiny_real), folder).mix(specs, sources)[0]
    again = random_concept(tmp_path / "again", tiny_model, tiny_real)
    assert (
        theirs.tobytes()
        == Mixer(tiny_model, config, *_names(tiny_real), again.folder)
        .mix(specs, sources)[0]
        .tobytes()
    )

    (folder / "learned_embeds-steps-last.bin").write_bytes(b"no pickle")
    with pytest.raises(UserError, match="cannot be read as the reference"):
        Concept.load(folder)


def test_a_concept_that_does_not_fit_is_refused_in_a_sentence(tmp_path, tiny_model, tiny_real):
    concept = random_concept(tmp_path / "concept", tiny_model, tiny_real)
    base = base_fingerprint(tiny_model)
    concept.check_matches(
        tiny_real.class_names[::-1], base, "here"
    )  # the order is the plan's affair
    with pytest.raises(
        UserError, match=r"in here was made for other classes \(it has no 'moose' and 1 more\)"
    ):
        concept.check_matches(["lynx", "moose", "elk"], base, "here")
    with pytest.raises(UserError, match="in here was made on another base model"):
        concept.check_matches(["lynx"], "sha256:0", "here")
    with pytest.raises(UserError, match="other classes"):
        Mixer(tiny_model, MixConfig(), ["moose"], "animal", concept.folder)


def test_broken_folders_are_refused_in_a_sentence(tmp_path, tiny_model, tiny_real):
    with pytest.raises(UserError, match="is not a concept"):
        Concept.load(tmp_path / "nowhere")
    concept = random_concept(tmp_path / "concept", tiny_model, tiny_real)
    (tmp_path / "concept" / "learned_embeds.safetensors").unlink()
    with pytest.raises(UserError, match=r"learned_embeds\.safetensors is missing"):
        Concept.load(tmp_path / "concept")
    (tmp_path / "concept" / "concept.json").write_text("{")
    with pytest.raises(UserError, match="is not a concept"):
        Concept.load(tmp_path / "concept")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        concept.save(tmp_path / "file" / "concept", {"<a>": torch.zeros(1, 32)}, {})


def test_weights_of_another_size_are_refused(tmp_path, tiny_model, tiny_real):
    concept = random_concept(tmp_path / "concept", tiny_model, tiny_real)
    wrong = concept.save(
        tmp_path / "wrong",
        {token: torch.zeros(1, 48) for token in concept.tokens.values()},
        {"x": torch.zeros(1)},
    )
    with pytest.raises(UserError, match="does not fit the base model"):
        wrong.apply(load_base(tiny_model, "cpu", torch.float32))


def test_prompts():
    assert (
        prompt("a {token}, a {superclass}", "<class_1>", "Red_Fox", "animal")
        == "a <class_1>, a animal"
    )
    assert (
        prompt("a {token}, a {class_name}", None, "001.Red_Fox", "animal") == "a Red Fox, a Red Fox"
    )
    assert prompt("a {token}", "<class_1>", "{brace}", "animal") == "a <class_1>"
    assert [
        spoken(name) for name in ("707-320", "12", "3. Bell 206", "Füchslein 狐", "2012 BMW")
    ] == [
        "707-320",
        "12",
        "Bell 206",
        "Füchslein 狐",
        "2012 BMW",
    ]
    for template in ("a {name}", "a {", "a {0}", "a {}"):
        with pytest.raises(UserError, match="cannot be used"):
            prompt(template, None, "x", "y")
