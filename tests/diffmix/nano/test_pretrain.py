"""Pre-training and the captions.

Covers `diffmix/nano/captions.py` and `diffmix/nano/pipeline.py` too.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffmix.nano import data
from diffmix.nano.captions import NAMES, caption, vocabulary
from diffmix.nano.pretrain import Settings, compositions, pretrain

TINY = Settings(images=12, vae_steps=2, vae_batch_size=2, unet_steps=2, unet_batch_size=2)


def weights(folder):
    return {
        f"{file.parent.name}/{name}": value
        for file in folder.rglob("*.safetensors")
        for name, value in load_file(file).items()
    }


@pytest.mark.trains
def test_two_steps_are_reproducible_to_the_bit(tmp_path):
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    pretrain(first, TINY)
    pretrain(again, TINY)
    pretrain(other, replace(TINY, seed=1))
    one, two, three = weights(first), weights(again), weights(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], three[name]) for name in one)
    assert all(value.isfinite().all() for value in one.values() if value.is_floating_point())


def test_it_sees_the_pre_training_part_only():
    mine = set(data.digit_indices("pretrain"))
    columns = {c for start, stop in data.photo_columns("pretrain") for c in range(start, stop)}
    for recipe in compositions(200, seed=5):
        assert recipe.digit in mine
        assert set(range(recipe.box[0], recipe.box[2])) <= columns


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_captions_name_the_class_as_often_as_asked(share):
    rng = np.random.default_rng(0)
    made = [(recipe, caption(recipe, share, rng)) for recipe in compositions(300, seed=0)]
    named = [NAMES[recipe.label] in text.split() for recipe, text in made]
    assert np.mean(named) == pytest.approx(share, abs=0.07)
    assert {word for _, text in made for word in text.split()} <= set(vocabulary())


def test_captions_are_true():
    rng = np.random.default_rng(0)
    for recipe in compositions(300, seed=0):
        words = set(caption(recipe, 1.0, rng).split())
        assert words & set(NAMES) == {NAMES[recipe.label]}
        assert words & set(data.COLORS) <= {recipe.color}
        assert words & {"china", "flower"} <= {recipe.group}


def test_it_continues_from_an_earlier_result(tmp_path):
    pretrain(tmp_path / "first", TINY)
    other = replace(TINY, seed=1, unet_ink_weight=4.0)
    pretrain(tmp_path / "second", other, start=tmp_path / "first")
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    kept = {name for name in first if torch.equal(first[name], second[name])}
    assert {name for name in first if name.startswith("vae/")} <= kept
    assert any(name.startswith("unet/") and name not in kept for name in first)
    assert any(name.startswith("text_encoder/") and name not in kept for name in first)
    for file in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in file.read_text()
