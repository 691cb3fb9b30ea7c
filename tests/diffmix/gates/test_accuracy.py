"""The accuracy gate: a mix's score follows the rank of its classes in a given classifier."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffmix.classifier.model import Classifier, bare_model, load_classifier, save_classifier
from diffmix.classifier.transforms import eval_transform
from diffmix.config import GateConfig
from diffmix.errors import UserError
from diffmix.gates import make_rule
from diffmix.gates.accuracy import AccuracyGate
from diffmix.plan import MixSpec
from diffmix.storage import Folder

KNOWN = ["Red Fox", "wolf", "001.Snow_Leopard", "lynx", "bear"]
"""The classifier's classes."""
NAMES = ["snow leopard", "Red Fox", "bear", "wolf"]
"""The mixes' classes: other order, other spelling, one fewer."""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """A run folder with a tiny classifier of random weights."""
    description = Classifier(
        model_name="resnet10t",
        class_names=KNOWN,
        resolution=32,
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    torch.manual_seed(0)
    model = bare_model(description)
    torch.nn.init.normal_(model.get_classifier().weight, std=3.0)
    run = tmp_path_factory.mktemp("run")
    save_classifier(Folder(str(run / "classifier")), model.state_dict(), description)
    return str(run)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (70, 3, 3, 3), dtype=np.uint8)
    return [Image.fromarray(color).resize((40, 36)) for color in colors]


def gate_of(classifier: str, names: list[str] = NAMES) -> AccuracyGate:
    return AccuracyGate.from_options(GateConfig(classifier=classifier), "animal", names)


def specs_of(count: int) -> list[MixSpec]:
    return [
        MixSpec(
            mix_id=i,
            source_id="",
            source_label=i % 4,
            target_label=(i // 4) % 4,
            strength=0.7,
            seed=i,
        )
        for i in range(count)
    ]


def test_the_score_is_one_over_the_better_rank(classifier, images):
    specs = specs_of(len(images))
    scores = gate_of(classifier).load("cpu").score(images, specs)
    model, description = load_classifier(Folder(f"{classifier}/classifier"))
    transform = eval_transform(description)
    place = {"snow leopard": 2, "Red Fox": 0, "bear": 4, "wolf": 1}
    wanted = []
    with torch.inference_mode():
        for image, spec in zip(images, specs, strict=True):
            order = model(transform(image)[None])[0].argsort(descending=True).tolist()
            classes = (NAMES[spec.source_label], NAMES[spec.target_label])
            wanted.append(1 / (1 + min(order.index(place[name]) for name in classes)))
    assert scores.dtype == np.float32
    assert np.allclose(scores, wanted)
    assert len(set(wanted)) > 3, "one rank for all would prove nothing"


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 7, 10, 49])
def test_exactly_the_top_k_are_accepted(classifier, top_k):
    rule = make_rule(GateConfig(classifier=classifier, top_k=top_k), "animal", NAMES)
    scores = (1 / torch.arange(1.0, 101.0)).numpy()
    assert rule.accepts(scores).sum() == top_k
    assert rule.quantile is None


def test_a_threshold_overrides_top_k(classifier):
    rule = make_rule(GateConfig(classifier=classifier, threshold=0.5), "animal", NAMES)
    assert rule.accepts(np.array([1, 1 / 2, 1 / 3], np.float32)).tolist() == [True, True, False]


def test_a_classifiers_own_folder_is_taken_too(classifier, images):
    specs = specs_of(8)
    whole = gate_of(classifier)
    own = gate_of(f"{classifier}/classifier")
    assert own.fingerprint == whole.fingerprint
    assert (
        own.load("cpu").score(images[:8], specs) == whole.load("cpu").score(images[:8], specs)
    ).all()
    assert gate_of("nano", []).fingerprint != whole.fingerprint


def test_the_fingerprint_follows_weights_and_classes(classifier, tmp_path):
    before = gate_of(classifier).fingerprint
    assert before != gate_of(classifier, NAMES[::-1]).fingerprint
    model, description = load_classifier(Folder(f"{classifier}/classifier"))
    weights = model.state_dict()
    weights["fc.bias"] += 1
    save_classifier(Folder(str(tmp_path)), weights, description)
    assert before != gate_of(str(tmp_path)).fingerprint
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"is incomplete \(model.safetensors cannot be read\)"):
        _ = gate_of(str(tmp_path)).fingerprint


def test_what_cannot_be_used_is_one_sentence(classifier, tmp_path):
    gate_of(classifier).check()
    with pytest.raises(UserError, match=r"holds no classifier \(no model.json\)"):
        gate_of(str(tmp_path)).check()
    with pytest.raises(UserError, match="has no class, or several, called 'otter'"):
        gate_of(classifier, ["wolf", "otter"]).check()
