import io
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from diffmix.nano import data

LABELS = range(len(data.CLASS_NAMES))


def test_no_digit_is_in_two_splits_and_none_is_left_out():
    owned = {split: set(data.digit_indices(split)) for split in data.SPLITS}
    for one, other in combinations(data.SPLITS, 2):
        assert not owned[one] & owned[other], (one, other)
    assert set.union(*owned.values()) == set(range(1797))


@pytest.mark.parametrize("seed", [0, 1])
def test_images_use_only_what_their_split_owns(seed):
    """No digit and no pixel of a photograph is used by two splits, whatever the seed."""
    digits: dict[str, set[int]] = {}
    columns: dict[str, set[int]] = {}
    for split in data.SPLITS:
        made = list(data.recipes(split, seed))
        digits[split] = {recipe.digit for recipe in made}
        columns[split] = {c for recipe in made for c in range(recipe.box[0], recipe.box[2])}
        repeated = data.digit_indices(split) * data.IMAGES_PER_DIGIT[split]
        assert sorted(recipe.digit for recipe in made) == sorted(repeated)
        assert all(0 <= recipe.box[1] < recipe.box[3] <= 427 for recipe in made)
        owned = {c for start, stop in data.photo_columns(split) for c in range(start, stop)}
        assert columns[split] <= owned
    for one, other in combinations(data.SPLITS, 2):
        assert not digits[one] & digits[other]
        assert not columns[one] & columns[other]


def test_an_image_depends_on_its_recipe_alone():
    """No pixel outside the recipe's box is used: with an invisible digit, only the crop is left."""
    recipe = replace(next(data.recipes("test")), opacity=0.0, mirrored=False)
    from sklearn.datasets import load_sample_image

    left, top, right, bottom = recipe.box
    crop = Image.fromarray(load_sample_image(f"{recipe.group}.jpg")[top:bottom, left:right])
    expected = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(data.render(recipe), expected)


def test_examples_are_small_rgb_images_of_all_classes():
    for split, count in {"pretrain": 897, "train": 1800, "val": 600, "test": 1200}.items():
        made = list(data.examples(split))
        assert len(made) == count
        assert {example.label for example in made} == set(LABELS)
        assert {example.group for example in made} == set(data.GROUPS)
        assert len({example.image_id for example in made}) == count
        image = Image.open(io.BytesIO(made[0].image))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))


def test_same_seed_same_bytes_other_seed_other_bytes():
    assert list(data.examples("val", seed=3)) == list(data.examples("val", seed=3))
    images = [{example.image for example in data.examples("val", seed=seed)} for seed in (3, 4)]
    assert not images[0] & images[1]


@pytest.mark.parametrize("split", data.SPLITS)
def test_background_goes_with_the_class_as_stated(split):
    made = list(data.recipes(split))
    for label in LABELS:
        groups = [recipe.group for recipe in made if recipe.label == label]
        share = sum(group == data.majority_group(label) for group in groups) / len(groups)
        assert share == pytest.approx(data.MAJORITY_SHARE[split], abs=0.5 / len(groups) + 1e-9)
