"""CLIPs of both libraries, each compared with the library's own forward pass."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from diffmix.errors import UserError
from diffmix.gates.clip_model import check_clip, clip_fingerprint, load_clip

PROMPTS = [
    "a photo with a thing on it",
    "a photo",
    "a much longer description of what there is to be seen " * 20,
]


@pytest.fixture(scope="module")
def samples() -> list[Image.Image]:
    """Wide, high, square and small ones, more than one batch of them."""
    rng = np.random.default_rng(0)
    sizes = [(48, 40), (32, 64), (32, 32), (20, 20)] * 20
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def test_embeddings_are_those_of_transformers(tiny_clip, samples):
    from transformers import CLIPModel, CLIPProcessor

    model, processor = (
        CLIPModel.from_pretrained(tiny_clip),
        CLIPProcessor.from_pretrained(tiny_clip),
    )
    inputs = processor(
        text=PROMPTS, images=samples, return_tensors="pt", padding=True, truncation=True
    )
    with torch.no_grad():
        wanted = model(**inputs)
    clip = load_clip(str(tiny_clip))
    images, texts = clip.embed_images(samples), clip.embed_prompts(PROMPTS)
    assert torch.allclose(images, wanted.image_embeds, atol=1e-5)
    assert torch.allclose(texts, wanted.text_embeds, atol=1e-5)
    assert torch.allclose(clip.logit_scale * images @ texts.T, wanted.logits_per_image, atol=1e-3)


@pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed"
)
def test_embeddings_are_those_of_open_clip(tmp_path, samples):
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    model = open_clip.CLIP(**config).eval()
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    cfg = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": cfg})
    )
    clip = load_clip(f"open_clip:local-dir:{tmp_path}")
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    with torch.no_grad():
        image, text, scale = model(
            torch.stack([transform(sample) for sample in samples]), open_clip.tokenize(PROMPTS)
        )
    assert torch.allclose(clip.embed_images(samples), image, atol=1e-5)
    assert torch.allclose(clip.embed_prompts(PROMPTS), text, atol=1e-5)
    assert clip.logit_scale == pytest.approx(float(scale))
    with pytest.raises(UserError, match=r"no model ViT-B-33; did you mean ViT-B-32"):
        check_clip("open_clip:ViT-B-33:openai")
    with pytest.raises(UserError, match=r"must name the weights: .*laion2b_s34b_b79k"):
        check_clip("open_clip:ViT-B-32")


@pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is not None, reason="open_clip is installed"
)
def test_without_open_clip_one_sentence_says_what_to_install():
    with pytest.raises(
        UserError,
        match=r"needs open_clip, which is not installed; run pip install -e '\.\[clip\]'",
    ):
        load_clip("open_clip:ViT-B-32:openai")


def test_what_is_no_clip_is_refused(tmp_path, tiny_clip, tiny_base):
    with pytest.raises(UserError, match="There is no CLIP at"):
        load_clip(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no readable config\.json"):
        load_clip(str(tmp_path))
    with pytest.raises(UserError, match="a model of type clip_text_model"):
        load_clip(str(tiny_base / "text_encoder"))
    with pytest.raises(UserError, match="The CLIP openai/none-such cannot be loaded"):
        load_clip("openai/none-such")
    broken = shutil.copytree(tiny_clip, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"The CLIP .*broken cannot be loaded"):
        load_clip(str(broken))


def test_fingerprint_follows_the_files_and_not_the_place(tmp_path, tiny_clip):
    moved = shutil.copytree(tiny_clip, tmp_path / "moved")
    assert clip_fingerprint(str(moved)) == clip_fingerprint(str(tiny_clip))
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert clip_fingerprint(str(moved)) != clip_fingerprint(str(tiny_clip))
    assert clip_fingerprint("openai/clip-vit-base-patch32") != clip_fingerprint(
        "openai/clip-vit-base-patch16"
    )
