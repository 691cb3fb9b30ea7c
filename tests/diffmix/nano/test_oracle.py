"""Training of the oracle; the shipped one is tested in `test_base.py`."""

import numpy as np
import torch
from PIL import Image

from diffmix.classifier.transforms import eval_transform
from diffmix.nano import data, oracle


def test_its_images_are_of_all_parts_but_the_test_set(monkeypatch):
    drawn = []

    def draw(image_id, split, row, group, rng):
        drawn.append((split, row))
        return original(image_id, split, row, group, rng)

    original = data.draw_recipe
    monkeypatch.setattr(data, "draw_recipe", draw)
    images, labels = oracle.compositions(200, seed=0)
    assert images.shape == (200, 32, 32, 3)
    assert {split for split, _ in drawn} == {"pretrain", "train", "val"}
    assert not {row for _, row in drawn} & set(data.digit_indices("test"))
    assert len(set(labels.tolist())) == 10
    again, _ = oracle.compositions(200, seed=0)
    assert np.array_equal(images, again)


def test_a_trained_oracle_is_saved_and_judges(tmp_path):
    images, labels = oracle.compositions(64, seed=0)
    model = oracle.train_oracle(images, labels, steps=3, seed=0)
    oracle.save(model, tmp_path)
    found = oracle.judge(images, tmp_path)
    with torch.inference_mode():
        expected = model.half().float()(oracle._inputs(images)).argmax(1).numpy()
    # Resizing differs in rounding, which may turn a close decision of an untrained model.
    assert (found == expected).mean() > 0.9


def test_a_batch_is_prepared_like_single_images():
    images, _ = oracle.compositions(3, seed=0)
    transform = eval_transform(oracle.DESCRIPTION)
    expected = torch.stack([transform(Image.fromarray(image)) for image in images])
    assert (oracle._inputs(images) - expected).abs().max() < 0.03
