"""Faithfulness and diversity, against formulas, scipy and the stock CLIP."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from diffmix import images
from diffmix.errors import UserError
from diffmix.faithfulness import (
    FeatureExtractor,
    Gaussian,
    StoredMix,
    faithfulness,
    frechet_distance,
    load_features,
)
from diffmix.gates.clip_model import load_clip


def gaussian_of(*batches: np.ndarray) -> Gaussian:
    gaussian = Gaussian()
    for batch in batches:
        gaussian.add(batch)
    return gaussian


def test_moments_are_numpys_however_features_come_in():
    features = np.random.default_rng(0).normal(1000.0, 0.01, (40, 5)).astype(np.float32)
    gaussian = gaussian_of(features[:1], features[1:30], features[:0], features[30:])
    assert np.allclose(gaussian.mean, features.astype(float).mean(axis=0), rtol=0, atol=1e-9)
    assert np.allclose(
        gaussian.covariance, np.cov(features.astype(float), rowvar=False), rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("count", [200, 12], ids=["full rank", "fewer images than dimensions"])
def test_frechet_distance_is_the_formula_with_scipys_root(count):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(count, 24)) @ rng.normal(size=(24, 24))
    other = rng.normal(0.3, 2, size=(count, 24))
    c1, c2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2 + (0 if count > 24 else 1e-12) * np.eye(24)).real
    wanted = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet_distance(gaussian_of(one), gaussian_of(other)) == pytest.approx(wanted, rel=1e-4)


def test_frechet_distance_in_closed_form():
    """For independent dimensions it is the sum of (m1 - m2)^2 + (s1 - s2)^2.

    Four corners at a distance of s * sqrt(3 / 4) from the mean have the deviation s.
    """

    def corners(mean: list[float], deviation: list[float]) -> Gaussian:
        signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        return gaussian_of(np.array(mean) + signs * np.array(deviation) * np.sqrt(3 / 4))

    distance = frechet_distance(corners([0, 1], [1, 2]), corners([3, 1], [2, 0.5]))
    assert distance == pytest.approx(3**2 + 1**2 + 1.5**2)


def mixes_of(real, rows: list[int], of: list[int], strength: float) -> list[StoredMix]:
    """The real images `of`, presented as mixes of the images `rows`."""
    return [
        StoredMix(
            image=real.image_bytes(image),
            source_id=real.image_ids[row],
            source_label=int(real.labels[row]),
            target_label=int(real.labels[image]),
            strength=strength,
        )
        for row, image in zip(rows, of, strict=True)
    ]


def test_figures_are_those_of_the_stock_clip(tiny_real, tiny_clip):
    from transformers import CLIPModel, CLIPProcessor

    rows, of = [0, 1, 2, 3, 4], [4, 2, 3, 3, 9]
    clip = load_clip(str(tiny_clip))
    batches = [
        mixes_of(tiny_real, rows[:3], of[:3], 0.3),
        mixes_of(tiny_real, rows[3:], of[3:], 0.69999),
    ]
    found = faithfulness(batches, tiny_real, load_features("clip", clip), clip)

    names = ["Red Fox", "gray wolf", "Füchslein 狐", "lynx"]
    inputs = CLIPProcessor.from_pretrained(tiny_clip)(
        text=[f"a photo of a {name}, a type of animal" for name in names],
        images=[images.decode(tiny_real.image_bytes(row)) for row in range(12)],
        return_tensors="pt",
        padding=True,
    )
    with torch.no_grad():
        stock = CLIPModel.from_pretrained(tiny_clip)(**inputs)
    features, prompts = stock.image_embeds.double().numpy(), stock.text_embeds.double().numpy()
    cosine = np.clip(features @ prompts.T, 0, None)
    target, source = tiny_real.labels[of], tiny_real.labels[rows]
    assert found["clip_score"] == pytest.approx(100 * cosine[of, target].mean(), abs=1e-3)
    assert found["clip_score_source_class"] == pytest.approx(
        100 * cosine[of, source].mean(), abs=1e-3
    )
    assert found["clip_score_real"] == pytest.approx(
        100 * cosine[range(12), tiny_real.labels].mean(), abs=1e-3
    )
    distances = 1 - (features[rows] * features[of]).sum(axis=1)
    assert found["source_distance"] == pytest.approx(distances.mean(), abs=1e-5)
    assert found["frechet_distance"] == pytest.approx(
        frechet_distance(gaussian_of(features[of]), gaussian_of(features)), abs=1e-5
    )
    assert (found["mixes"], found["real_images"], found["features"]) == (5, 12, str(tiny_clip))
    assert list(found["by_strength"]) == ["0.3", "0.7"]
    assert found["by_strength"]["0.3"]["source_distance"] == pytest.approx(
        distances[:3].mean(), abs=1e-5
    )
    assert found["by_strength"]["0.7"]["clip_score"] == pytest.approx(
        100 * cosine[of, target][3:].mean(), abs=1e-3
    )


def test_mixes_that_are_their_sources_are_at_no_distance_and_mixes_from_noise_have_none(tiny_real):
    def mean_color(batch: list) -> np.ndarray:
        return np.stack([np.asarray(image, dtype=np.float32).mean((0, 1)) for image in batch])

    gray = FeatureExtractor("mean color", mean_color)
    everything = list(range(12))
    same = faithfulness([mixes_of(tiny_real, everything, everything, 0.5)], tiny_real, gray, None)
    assert same["source_distance"] == pytest.approx(0, abs=1e-6)
    assert same["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert not any(name.startswith("clip") for name in same)
    noise = [replace(mix, source_id="") for mix in mixes_of(tiny_real, [0], [5], 1.0)]
    found = faithfulness([noise], tiny_real, gray, None)
    assert found["mixes"] == 1
    assert "source_distance" not in found
    assert "frechet_distance" not in found, "one image has no covariance"
    foreign = [
        replace(mix, source_id="another set/7.jpg")
        for mix in mixes_of(tiny_real, [0, 1], [5, 6], 0.7)
    ]
    composed = faithfulness([foreign], tiny_real, gray, None)
    assert "source_distance" not in composed, "the source is not among the real images"


def test_timm_features_are_the_models_before_its_head(tmp_path, tiny_real):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=3).eval()
    timm.models.save_for_hf(model, tmp_path)
    extractor = load_features(f"local-dir:{tmp_path}", None)
    decoded = [images.decode(tiny_real.image_bytes(row)) for row in (0, 1)]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    batch = torch.stack([transform(image) for image in decoded])
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(batch), pre_logits=True).numpy()
    assert np.allclose(extractor.extract(decoded), wanted, atol=1e-5)
    with pytest.raises(UserError, match=r"--evaluate\.features resnot50 cannot be loaded"):
        load_features("resnot50", None)
    with pytest.raises(UserError, match=r"--evaluate\.features is clip, but there is none"):
        load_features("clip", None)
