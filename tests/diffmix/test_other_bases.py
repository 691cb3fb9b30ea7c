"""Bases shaped like Stable Diffusion 2 and SDXL: they load, personalize and mix like any other.

Mixes are compared with those of the stock pipelines.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffmix.config import MixConfig, ModelConfig, PersonalizeConfig
from diffmix.errors import UserError
from diffmix.generator.base_model import base_fingerprint, load_base, move, native_resolution
from diffmix.generator.concept import Concept
from diffmix.generator.mixer import Mixer
from diffmix.generator.prompt_encoder import PromptEncoder
from diffmix.images import decode
from diffmix.personalize.modules import DenoisingLoss
from diffmix.personalize.train import train_concept
from diffmix.plan import MixSpec


@pytest.fixture(params=["sd2", "xl"])
def base(request):
    return request.getfixturevalue(f"tiny_{request.param}")


def model_of(base, **options) -> ModelConfig:
    return ModelConfig(**{"base": str(base), "precision": "fp32", **options})


def psnr(one: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(10 * np.log10(255**2 / max(1e-9, (difference**2).mean())))


def stock(base, task="Img2Img"):
    """The stock pipeline for the base, with the sampler of the paper's code."""
    import diffusers

    kind = "StableDiffusionXL" if (base / "text_encoder_2").exists() else "StableDiffusion"
    pipe = getattr(diffusers, f"{kind}{task}Pipeline").from_pretrained(base)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_concept(pipe, folder) -> None:
    """Load a concept as the docstring of `diffmix.generator.concept` describes."""
    rows = load_file(folder / "learned_embeds.safetensors")
    if set(rows) == {"clip_l", "clip_g"}:
        names = Concept.load(folder).spellings
        pipe.load_textual_inversion(
            rows["clip_l"], token=names, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
        )
        pipe.load_textual_inversion(
            rows["clip_g"],
            token=names,
            text_encoder=pipe.text_encoder_2,
            tokenizer=pipe.tokenizer_2,
        )
        pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id
    else:
        pipe.load_textual_inversion([{token: vectors} for token, vectors in rows.items()])
    pipe.load_lora_weights(folder)


@pytest.mark.parametrize(
    ("guidance", "negative", "strength"),
    [(5.0, "", 0.7), (4.0, "a blurry one", 1.0), (1.0, "", 0.5)],
)
def test_each_mix_is_what_stock_img2img_gives_alone(base, tiny_real, guidance, negative, strength):
    config = MixConfig(
        strategy="real-mix",
        num_inference_steps=6,
        guidance_scale=guidance,
        negative_prompt=negative,
    )
    mixer = Mixer(model_of(base), config, tiny_real.class_names, "animal")
    specs = [
        MixSpec(
            mix_id=i,
            source_id=tiny_real.image_ids[i],
            source_label=0,
            target_label=i % 4,
            strength=strength,
            seed=30 + i,
        )
        for i in (0, 5, 7)
    ]
    sources = [tiny_real.image_bytes(i) for i in (0, 5, 7)]
    images = mixer.mix(specs, sources)
    pipe = stock(base)

    def alone(spec, source, label):
        image = decode(source)
        options = {
            "strength": spec.strength,
            "num_inference_steps": 6,
            "guidance_scale": guidance,
            "negative_prompt": negative or None,
        }
        start = image.resize((32, 32), Image.Resampling.BILINEAR)
        generator = torch.Generator().manual_seed(spec.seed)
        made = pipe(mixer.prompts[label], image=start, generator=generator, **options).images[0]
        return made.resize(image.size, Image.Resampling.BILINEAR)

    values = [
        psnr(image, alone(*pair, pair[0].target_label))
        for image, pair in zip(images, zip(specs, sources, strict=True), strict=True)
    ]
    print("PSNR", [f"{value:.1f}" for value in values])
    assert min(values) > 40
    assert psnr(images[0], alone(specs[0], sources[0], 3)) < 35  # another class, another image


@pytest.mark.parametrize("side", [None, 64])
def test_mixes_from_noise_are_what_stock_text_to_image_gives(base, tiny_real, side):
    config = MixConfig(strategy="real-gen", num_inference_steps=5, guidance_scale=4.0)
    mixer = Mixer(model_of(base, resolution=side), config, tiny_real.class_names, "animal")
    specs = [
        MixSpec(mix_id=i, source_id="", source_label=i, target_label=i, strength=1.0, seed=70 + i)
        for i in range(3)
    ]
    images = mixer.mix(specs, [None] * 3)
    pipe = stock(base, task="")
    for spec, image in zip(specs, images, strict=True):
        generator = torch.Generator().manual_seed(spec.seed)
        size = {"height": side, "width": side} if side else {}
        alone = pipe(
            mixer.prompts[spec.target_label],
            num_inference_steps=5,
            guidance_scale=4.0,
            generator=generator,
            **size,
        ).images[0]
        assert image.size == alone.size == (side or 32,) * 2
        assert psnr(image, alone) > 40


def settings(**changes) -> PersonalizeConfig:
    return PersonalizeConfig(
        **{
            "steps": 6,
            "batch_size": 4,
            "lora_rank": 2,
            "lora_lr": 3e-2,
            "token_lr": 3e-2,
            **changes,
        }
    )


def test_a_concept_makes_the_same_image_in_stock_diffusers(tmp_path, base, tiny_real):
    concept = train_concept(
        model_of(base), settings(vectors_per_token=2), tiny_real, tmp_path / "concept", 0
    )
    config = MixConfig(num_inference_steps=6, guidance_scale=3.0)
    spec, source = (
        MixSpec(
            mix_id=0,
            source_id=tiny_real.image_ids[0],
            source_label=0,
            target_label=1,
            strength=0.8,
            seed=5,
        ),
        tiny_real.image_bytes(0),
    )
    mixer = Mixer(model_of(base), config, tiny_real.class_names, "animal", concept.folder)
    image = mixer.mix([spec], [source])[0]

    def in_stock(folder):
        pipe = stock(base)
        load_concept(pipe, folder)
        options = {
            "strength": 0.8,
            "num_inference_steps": 6,
            "guidance_scale": 3.0,
            "generator": torch.Generator().manual_seed(5),
        }
        return pipe("a photo of a <class_1> animal", image=decode(source), **options).images[0]

    value = psnr(image, in_stock(concept.folder))
    print(f"PSNR {value:.1f}")
    assert value > 40
    # Each encoder's rows have their part in it.
    file = tmp_path / "concept" / "learned_embeds.safetensors"
    rows = load_file(file)
    for key in ("clip_l", "clip_g") if "clip_l" in rows else ("<class_1>",):
        shutil.copytree(concept.folder, tmp_path / key)
        save_file({**rows, key: torch.randn_like(rows[key])}, tmp_path / key / file.name)
        assert psnr(image, in_stock(tmp_path / key)) < value - 10


def test_rows_of_every_text_encoder_are_trained_and_nothing_else(tmp_path, base, tiny_real):
    before = load_base(model_of(base), "cpu", torch.float32)
    train_concept(model_of(base), settings(), tiny_real, tmp_path / "concept", 0)
    concept = Concept.load(tmp_path / "concept")
    assert concept.base_fingerprint == base_fingerprint(model_of(base))
    encoders = (
        [before.text_encoder, before.text_encoder_2]
        if (base / "text_encoder_2").exists()
        else [before.text_encoder]
    )
    assert bool(concept.embeds(1)) == (len(encoders) == 2)
    for place, encoder in enumerate(encoders):
        table = encoder.get_input_embeddings().weight
        start = table[before.tokenizer("animal", add_special_tokens=False).input_ids].mean(0)
        rows = concept.embeds(place)
        assert list(rows) == list(concept.tokens.values())
        assert all(
            row.shape == (1, table.shape[1]) and (row - start).abs().max() > 1e-2
            for row in rows.values()
        )
    assert load_file(concept.folder / "pytorch_lora_weights.safetensors")


def test_the_loss_is_that_of_the_formula_on_stock_encodings(base):
    pipe = load_base(model_of(base), "cpu", torch.float32)
    prompts = ["a photo of a cat", "two dogs", ""]
    loss = DenoisingLoss(pipe, prompts, 32, trains_text=True, snr_gamma=2.0)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn((2, 3, 4, 8, 8), generator=generator)
    timesteps, weights = torch.tensor([10, 500, 999]), torch.tensor([0.5, 0.25, 2.0])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)[timesteps].float()
    alpha, sigma = (
        alpha_bar.sqrt()[:, None, None, None],
        (1 - alpha_bar).sqrt()[:, None, None, None],
    )
    expected = torch.zeros(())
    with torch.no_grad():
        for i, text in enumerate(prompts):
            if (base / "text_encoder_2").exists():
                # No negative prompt is what an empty prompt stands for.
                hidden, none, pooled, none_pooled = pipe.encode_prompt(text or "x", device="cpu")
                hidden, pooled = (hidden, pooled) if text else (none, none_pooled)
                sizes = torch.tensor([[32.0, 32, 0, 0, 32, 32]])
                extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
                target = noise[i]
            else:
                hidden, extra = pipe.encode_prompt(text, "cpu", 1, False)[0], {}
                target = alpha[i] * noise[i] - sigma[i] * latents[i]
            noisy = (alpha * latents + sigma * noise)[i : i + 1]
            predicted = pipe.unet(
                noisy, timesteps[i], encoder_hidden_states=hidden, **extra
            ).sample[0]
            snr = alpha_bar[i] / (1 - alpha_bar[i])
            weight = snr.clamp(max=2.0) / (snr if "added_cond_kwargs" in extra else snr + 1)
            expected += weights[i] * weight * (predicted - target).square().mean()
        assert loss(
            latents, noise, timesteps, torch.arange(3), torch.arange(3), weights
        ).item() == pytest.approx(expected.item(), rel=1e-4)
        fixed = DenoisingLoss(pipe, prompts, 32, trains_text=False, snr_gamma=2.0)
        assert fixed(
            latents, noise, timesteps, torch.arange(3), torch.arange(3), weights
        ).item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_sdxl_that_was_not_made_for_zeros_gets_its_empty_prompt(tiny_xl):
    pipe = load_base(model_of(tiny_xl), "cpu", torch.float32)
    assert PromptEncoder(pipe, 32).encode([""]).hidden_states.abs().max() == 0
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    text = PromptEncoder(pipe, 32).encode(["a cat", ""])
    hidden, none, pooled, none_pooled = pipe.encode_prompt("a cat", device="cpu")
    for place, (wanted, wanted_pooled) in enumerate([(hidden, pooled), (none, none_pooled)]):
        torch.testing.assert_close(text.hidden_states[place : place + 1], wanted)
        torch.testing.assert_close(text.pooled[place : place + 1], wanted_pooled)


def test_the_vae_of_an_sdxl_stays_in_full_precision_where_half_would_overflow(tiny_xl):
    pipe = load_base(model_of(tiny_xl), "cpu", torch.float32)
    for dtype, vae_dtype in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        move(pipe, "cpu", dtype)
        assert (pipe.unet.dtype, pipe.text_encoder_2.dtype, pipe.vae.dtype) == (
            dtype,
            dtype,
            vae_dtype,
        )


def test_half_precision_stays_near_full_precision(tmp_path, tiny_xl, tiny_real):
    images = {}
    for precision in ("fp32", "bf16"):
        model = model_of(tiny_xl, precision=precision)
        concept = train_concept(model, settings(), tiny_real, tmp_path / precision, 0)
        mixer = Mixer(
            model,
            MixConfig(num_inference_steps=4, guidance_scale=2.0),
            tiny_real.class_names,
            "animal",
            concept.folder,
        )
        images[precision] = mixer.mix(
            [
                MixSpec(
                    mix_id=0,
                    source_id=tiny_real.image_ids[0],
                    source_label=0,
                    target_label=1,
                    strength=0.8,
                    seed=5,
                )
            ],
            [tiny_real.image_bytes(0)],
        )[0]
    assert 20 < psnr(images["fp32"], images["bf16"]) < 90


def test_a_concept_for_another_number_of_text_encoders_is_refused(
    tmp_path, tiny_base, tiny_xl, tiny_real
):
    concept = train_concept(
        model_of(tiny_base), settings(steps=1, lora=False), tiny_real, tmp_path / "concept", 0
    )
    pipe = load_base(model_of(tiny_xl), "cpu", torch.float32)
    with pytest.raises(UserError, match="token vectors for 1 text encoders, where the base has 2"):
        concept.apply(pipe)


def test_bases_that_only_look_alike_are_refused_in_a_sentence(tmp_path, tiny_base, tiny_xl):
    assert native_resolution(load_base(model_of(tiny_xl), "cpu", torch.float32)) == 32

    def changed(base, name, part, **changes):
        folder = tmp_path / name
        shutil.copytree(base, folder)
        file = folder / part
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return model_of(folder)

    refiner = changed(
        tiny_xl, "refiner", "model_index.json", text_encoder=[None, None], tokenizer=[None, None]
    )
    with pytest.raises(UserError, match="it has no text_encoder"):
        load_base(refiner, "cpu", torch.float32)
    sample = changed(
        tiny_base, "sample", "scheduler/scheduler_config.json", prediction_type="sample"
    )
    with pytest.raises(UserError, match="its UNet predicts sample"):
        load_base(sample, "cpu", torch.float32)
    scaled = changed(
        tiny_xl, "scaled", "vae/config.json", latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    with pytest.raises(UserError, match="its VAE scales each channel"):
        load_base(scaled, "cpu", torch.float32)
    shutil.rmtree(tmp_path / "scaled" / "tokenizer_2")
    with pytest.raises(UserError, match=r"is incomplete \(tokenizer_2/ is missing\)"):
        load_base(scaled, "cpu", torch.float32)
