"""CLIP's gate: its scores are the reference's."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffmix.config import GateConfig
from diffmix.errors import UserError
from diffmix.gates.clip import ClipGate


@pytest.fixture(scope="module")
def samples() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((40, 32))
        for _ in range(20)
    ]


def gate_of(folder, superclass: str, **options) -> ClipGate:
    return ClipGate.from_options(GateConfig(clip=str(folder), **options), superclass, [])


def softmax_of_the_stock_model(folder, prompts, samples) -> np.ndarray:
    from transformers import CLIPModel, CLIPProcessor

    processor = CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=prompts, images=samples, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = CLIPModel.from_pretrained(folder)(**inputs).logits_per_image
    return logits.softmax(dim=1)[:, 0].numpy()


def test_scores_are_the_references(tiny_clip, samples):
    wanted = softmax_of_the_stock_model(
        tiny_clip, ["a photo with a bird on it", "a photo without a bird on it"], samples
    )
    scorer = gate_of(tiny_clip, "bird").load("cpu")
    scores = scorer.score(samples, [])
    assert scores.dtype == np.float32
    assert np.allclose(scores, wanted, atol=1e-4)
    assert np.ptp(scores) > 0.05, "a gate that gives all images one score would prove nothing"
    assert scorer.score([], []).shape == (0,)


def test_prompts_can_be_chosen(tiny_clip, samples):
    gate = gate_of(tiny_clip, "thing", prompts=("a {superclass}", "no {superclass}"))
    wanted = softmax_of_the_stock_model(tiny_clip, ["a thing", "no thing"], samples)
    assert np.allclose(gate.load("cpu").score(samples, []), wanted, atol=1e-4)
    with pytest.raises(UserError, match=r"The prompt 'a \{thing\}' cannot be used"):
        gate_of(tiny_clip, "thing", prompts=("a {thing}", "none"))


def test_the_article_fits_the_superclass(tiny_clip):
    assert gate_of(tiny_clip, "aircraft").prompts[0] == "a photo with an aircraft on it"


def test_the_fingerprint_follows_the_prompts(tiny_clip):
    bird = gate_of(tiny_clip, "bird").fingerprint
    assert bird == gate_of(tiny_clip, "bird").fingerprint
    assert bird != gate_of(tiny_clip, "dog").fingerprint
    # Stores of earlier versions keep fingerprints that were made like this.
    hub = ClipGate.from_options(GateConfig(clip="openai/clip-vit-base-patch32"), "bird", [])
    assert hub.fingerprint == "bb557ac32504b272"
