"""The shipped base model in stock diffusers, its tokenizer and its oracle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

import diffmix.nano
from diffmix.nano import data

ROOT = Path(diffmix.nano.__file__).parent
BASE = ROOT / "base"
LIMIT = 12_000_000


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusionImg2ImgPipeline.from_pretrained(BASE)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_weights_are_small():
    files = [path for path in ROOT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= LIMIT
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".ckpt"}]


def test_it_is_shaped_like_stable_diffusion(pipeline):
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 32
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    assert pipeline.scheduler.config.algorithm_type == "dpmsolver++"
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}


def test_it_makes_images_from_images(pipeline):
    source = Image.fromarray(data.render(next(data.recipes("train"))))
    made = pipeline(
        "a photo of a digit",
        image=source,
        strength=0.5,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert made.images[0].size == (32, 32)
    difference = np.abs(np.asarray(made.images[0], dtype=float) - np.asarray(source)).mean()
    assert 0 < difference < 80  # gray levels; unrelated images of the set differ by about 85


def test_it_makes_images_from_text():
    text_to_image = StableDiffusionPipeline.from_pretrained(BASE)
    text_to_image.set_progress_bar_config(disable=True)
    made = text_to_image("a photo of a red digit", num_inference_steps=2, output_type="np").images
    assert made.shape == (1, 32, 32, 3)


def test_the_autoencoder_keeps_digits_recognizable(pipeline):
    from diffmix.nano.oracle import judge

    recipes = list(data.recipes("test"))
    images = np.stack([data.render(recipe) for recipe in recipes])
    rebuilt = []
    with torch.no_grad():
        for batch in (torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).split(16):
            latents = pipeline.vae.encode(batch).latent_dist.mean
            rebuilt.append(pipeline.vae.decode(latents).sample.clamp(-1, 1))
    rebuilt = torch.cat(rebuilt)
    rebuilt = ((rebuilt + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert (judge(rebuilt) == [recipe.label for recipe in recipes]).mean() >= 0.95


def test_the_oracle_knows_the_test_set():
    from diffmix.nano.oracle import accuracy

    assert accuracy("test") >= 0.95


@pytest.mark.parametrize("text", ["photo", "Türöffner", "红嘴蓝鹊", "Boeing 737-800", "🙂"])
def test_any_text_can_be_tokenized(pipeline, text):
    tokenizer = pipeline.tokenizer
    ids = tokenizer(text).input_ids
    assert len(ids) > 2
    assert tokenizer.unk_token_id not in ids[1:-1]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.lower().replace(" ", "")


def test_words_of_the_captions_are_single_tokens(pipeline):
    from diffmix.nano.captions import vocabulary

    assert {len(pipeline.tokenizer(word).input_ids) for word in vocabulary()} == {3}


def test_tokens_can_be_added():
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    assert tokenizer.add_tokens(["<class_0>", "<class_1>"]) == 2
    first, second = tokenizer.convert_tokens_to_ids(["<class_0>", "<class_1>"])
    assert first in tokenizer("a photo of a <class_0> digit").input_ids
    assert second not in tokenizer("a photo of a <class_0> digit").input_ids
