"""Which mixes and test images a report shows, and what it says of them."""

import json
import math
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from diffmix import images
from diffmix.config import Config, MixConfig, replace
from diffmix.datasets.prepare import Prepared
from diffmix.datasets.real import Example, RealSet
from diffmix.labels import soft_label
from diffmix.plan import make_plan
from diffmix.storage import Folder
from engine.mixing.mix_source import find_mix_source
from engine.mixing.store import SCHEMA, MixStore
from engine.results import gallery
from engine.results.gallery import make_gallery

CLASS_NAMES = ["Red_Fox", "gray wolf", "Füchslein 狐", "lynx"]


@pytest.fixture
def data(tmp_path) -> Prepared:
    def picture(i: int) -> bytes:
        return images.encode(Image.new("RGB", (8, 8), (10 * i, 0, 0)), "png", 100)

    examples = [Example(f"{i}.png", picture(i), i % 4) for i in range(16)]
    real = RealSet.write(str(tmp_path / "data" / "train.arrow"), examples, CLASS_NAMES, "animal")
    return Prepared(real, None, real)


@pytest.fixture
def config(tmp_path) -> Config:
    mix = MixConfig(count=80, batch=4, strength=(0.5, 0.9), strategy="real-mix", gamma=0.5)
    return Config(out=str(tmp_path / "out"), mix=mix)


def fill(config: Config, data: Prepared):
    """A store of the plan's mixes; every fifth is rejected. Scores are the mix's number."""
    plan, store = make_plan(config, data.train), MixStore(f"{config.out}/mixes")
    store.bind({"class_names": CLASS_NAMES, "plan": {}})
    for chunk in range(plan.num_chunks):
        rows = []
        for spec in plan.chunk(chunk):
            file = images.encode(Image.new("RGB", (8, 8), (0, spec.mix_id, 0)), "png", 100)
            rest = {"score": spec.mix_id / 80, "accepted": spec.mix_id % 5 != 0}
            rows.append({**asdict(spec), "image": file, **rest})
        store.write(chunk, pa.Table.from_pylist(rows, schema=SCHEMA))
    return find_mix_source(Folder(config.out), data.train)


def shown_of(config: Config, data: Prepared):
    return make_gallery(config, Folder(config.out), data, fill(config, data))


def test_all_mixes_of_a_small_store_with_label_prompt_and_source(config, data):
    shown = shown_of(config, data)
    plan = {spec.mix_id: spec for spec in make_plan(config, data.train)}
    assert shown.rule == "All 80 are here."
    assert sorted(mix.mix_id for mix in shown.mixes) == list(range(80))
    for mix in shown.mixes:
        spec = plan[mix.mix_id]
        assert (mix.source, mix.target, mix.seed) == (
            spec.source_label,
            spec.target_label,
            spec.seed,
        )
        soft = soft_label(spec.source_label, spec.target_label, spec.strength, 0.5, 4)
        assert mix.target_share == pytest.approx(soft[spec.target_label])
        assert mix.label_sum == pytest.approx(1.0)
        assert mix.accepted == (mix.mix_id % 5 != 0)
        assert (
            mix.prompt == f"a photo of a {['Red Fox', *CLASS_NAMES[1:]][spec.target_label]} animal"
        )
        number = data.train.index_of(spec.source_id)
        assert shown.sources[mix.source_id] == data.train.image_bytes(number)
        assert mix.loss is None, "there is no classifier"


def test_of_a_large_store_every_nth_part_is_read(config, data, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_MIXES", 20)
    source = fill(config, data)
    read = []
    whole = MixStore.read
    monkeypatch.setattr(
        MixStore,
        "read",
        lambda self, chunk, columns=None: (
            columns or read.append(chunk),
            whole(self, chunk, columns),
        )[1],
    )
    shown = make_gallery(config, Folder(config.out), data, source)
    assert len(shown.mixes) == 20
    assert read == list(range(0, make_plan(config, data.train).num_chunks, 4))
    assert shown.rule == "20 of 80 are here: those of every 4th stored part."
    again = make_gallery(config, Folder(config.out), data, source)
    assert [mix.mix_id for mix in again.mixes] == [mix.mix_id for mix in shown.mixes]
    assert {round(mix.strength, 1) for mix in shown.mixes} == {0.5, 0.9}


def test_the_classifiers_loss_is_the_soft_cross_entropy(config, data, monkeypatch):
    import torch

    from diffmix.classifier import model, transforms

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, batch):
            green = batch[:, 1].amax((1, 2))
            return torch.stack([green, 2 * green, 0 * green, -green], 1) * self.scale

    description = type("Description", (), {"class_names": CLASS_NAMES})
    monkeypatch.setattr(model, "load_classifier", lambda folder, device: (Fixed(), description))
    monkeypatch.setattr(
        transforms,
        "eval_transform",
        lambda _: lambda image: torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255.0,
    )
    monkeypatch.setattr("diffmix.devices.inference_device", lambda: "cpu")
    monkeypatch.setattr(gallery, "MOST_LOSSES", 20)
    (Folder(config.out) / "classifier").create().write("model.json", b"{}")
    shown = shown_of(config, data)
    measured = [mix for mix in shown.mixes if mix.loss is not None]
    assert len(measured) == 20
    assert shown.rule.endswith("The classifier's loss is known for 20 of them.")
    for mix in measured:
        green = mix.mix_id / 255
        logits = [green, 2 * green, 0.0, -green]
        total = math.log(sum(math.exp(value) for value in logits))
        share = {mix.source: 1 - mix.target_share}
        share[mix.target] = mix.target_share if mix.source != mix.target else 1.0
        expected = -sum(part * (logits[label] - total) for label, part in share.items())
        assert mix.loss == pytest.approx(expected, abs=1e-5)


def test_test_images_behind_confusions_the_most_frequent_pairs_first(config, data, monkeypatch):
    monkeypatch.setattr(gallery, "TESTS_OF_A_CELL", 2)
    predicted = data.test.labels.tolist()
    predicted[0] = predicted[4] = predicted[8] = 1  # class 0 three times for class 1
    predicted[3] = 2
    classifier = (Folder(config.out) / "classifier").create()
    classifier.write("predictions.json", json.dumps(predicted).encode())
    shown = make_gallery(config, Folder(config.out), data, None)
    pairs = [(test.image_id, test.label, test.taken_for) for test in shown.tests]
    assert pairs == [("0.png", 0, 1), ("4.png", 0, 1), ("3.png", 3, 2)]
    classifier.write("predictions.json", b"[0, 1]")
    assert make_gallery(config, Folder(config.out), data, None).tests == []


def test_a_concept_that_is_not_there_leaves_prompts_out(config, data):
    config = replace(config, **{"mix.strategy": "diff-mix"})
    assert {mix.prompt for mix in shown_of(config, data).mixes} == {None}
