"""The gate's scores and decisions."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffmix.config import Config, GateConfig
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.gates.gate import Scorer, make_gate, quantile_cut


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((40, 32))
        for _ in range(20)
    ]


def softmax_of_the_stock_model(folder, prompts, pictures) -> np.ndarray:
    from transformers import CLIPModel, CLIPProcessor

    inputs = CLIPProcessor.from_pretrained(folder)(
        text=prompts, images=pictures, return_tensors="pt", padding=True
    )
    with torch.no_grad():
        return (
            CLIPModel.from_pretrained(folder)(**inputs)
            .logits_per_image.softmax(dim=1)[:, 0]
            .numpy()
        )


def test_scores_are_the_references(tiny_clip, pictures):
    gate = make_gate(GateConfig(clip=str(tiny_clip)), "bird")
    wanted = softmax_of_the_stock_model(
        tiny_clip, ["a photo with a bird on it", "a photo without a bird on it"], pictures
    )
    scores = Scorer(gate).score(pictures)
    assert scores.dtype == np.float32
    assert np.allclose(scores, wanted, atol=1e-4)
    assert np.ptp(scores) > 0.05, "a gate that gives all pictures one score would prove nothing"


def test_prompts_can_be_chosen(tiny_clip, pictures):
    gate = make_gate(
        GateConfig(clip=str(tiny_clip), prompts=("a {superclass}", "no {superclass}")), "thing"
    )
    wanted = softmax_of_the_stock_model(tiny_clip, ["a thing", "no thing"], pictures)
    assert np.allclose(Scorer(gate).score(pictures), wanted, atol=1e-4)
    with pytest.raises(UserError, match=r"The prompt 'a \{thing\}' cannot be used"):
        make_gate(GateConfig(clip=str(tiny_clip), prompts=("a {thing}", "none")), "thing")


def test_the_article_fits_the_superclass(tiny_clip):
    assert (
        make_gate(GateConfig(clip=str(tiny_clip)), "aircraft").prompts[0]
        == "a photo with an aircraft on it"
    )


def test_a_threshold_is_decided_at_once_and_a_quantile_later(tiny_clip):
    scores = np.array([0.2, 0.5, 0.8], dtype=np.float32)
    by_threshold = make_gate(GateConfig(clip=str(tiny_clip), threshold=0.5, quantile=0.3), "bird")
    assert by_threshold.accepts(scores).tolist() == [False, True, True]
    assert by_threshold.quantile is None, "a threshold overrides the quantile"
    by_quantile = make_gate(GateConfig(clip=str(tiny_clip), quantile=0.3), "bird")
    assert by_quantile.accepts(scores).all()
    assert by_threshold.scorer == by_quantile.scorer, "their scores are the same"
    assert by_threshold.scorer != make_gate(GateConfig(clip=str(tiny_clip)), "dog").scorer
    assert make_gate(GateConfig(), "bird") is None


def test_the_quantile_is_the_references_percentile():
    scores = np.random.default_rng(0).random(237).astype(np.float32)
    kept = scores.astype(float) >= quantile_cut(scores, 0.1)
    assert (kept == (scores.astype(float) >= np.percentile(scores.astype(float), 10))).all()
    assert (~kept).sum() == 24  # the lowest tenth of 237
    assert (scores >= quantile_cut(scores, 0.0)).all()


@pytest.mark.parametrize(
    ("option", "value"), [("threshold", 1.5), ("threshold", -0.1), ("quantile", 1.0)]
)
def test_options_out_of_range(option, value):
    config = Config(gate=GateConfig(**{option: value}))
    with pytest.raises(UserError, match=f"--gate.{option} is {value}"):
        check(config)
