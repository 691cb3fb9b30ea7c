"""A concept's settings, and what differs between two concepts' of them."""

import logging

import pytest

from diffmix.config import PersonalizeConfig
from diffmix.personalize.settings import concept_settings, differences

WORN = {
    "batch_size": 2,
    "class_balanced": False,
    "flip": True,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "initializer": "{superclass}",
    "large_batch": 1,
    "lora": True,
    "lora_lr": 5e-5,
    "lora_rank": 10,
    "max_grad_norm": 1.0,
    "noise_offset": 0.0,
    "prior_images": 200,
    "prior_weight": 0.0,
    "prompt_dropout": 0.0,
    "prompts": ["a photo of a {token} {superclass}"],
    "snr_gamma": None,
    "steps": 35_000,
    "token_lr": 5e-5,
    "tokens": True,
    "use_8bit_adam": False,
    "vectors_per_token": 1,
    "weight_decay": 1e-2,
}
"""The settings of a concept of the default options from before there was `resize_mode`."""


def test_a_concept_of_square_images_keeps_the_settings_of_older_ones():
    assert concept_settings(PersonalizeConfig(), all_square=True) == WORN
    squashed = PersonalizeConfig(resize_mode="squash", cached_crops=3)
    assert concept_settings(squashed, all_square=True) == WORN


def test_of_other_images_the_way_they_were_resized_is_one():
    new = concept_settings(PersonalizeConfig(), all_square=False)
    assert new == {**WORN, "resize_mode": "shorter"}
    crops = concept_settings(PersonalizeConfig(cached_crops=3), all_square=False)
    assert crops == {**new, "cached_crops": 3}
    squashed = PersonalizeConfig(resize_mode="squash", cached_crops=3)
    assert concept_settings(squashed, all_square=False) == {**WORN, "resize_mode": "squash"}


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 224},
        {"token_weight_decay": 0.01},
        {"clip_tokens": False},
        {"initializer": 42170},
    ],
)
def test_a_younger_option_is_one_where_it_is_used(change):
    wanted = concept_settings(PersonalizeConfig(**change), all_square=True)
    assert wanted == {**WORN, **change}
    ((name, value),) = change.items()
    before = WORN.get(name, PersonalizeConfig.__dataclass_fields__[name].default)
    assert differences(WORN, wanted, "out") == [f"{name} was {before} and is {value} now"]
    assert differences(wanted, WORN, "out") == [f"{name} was {value} and is {before} now"]


def test_the_batch_of_a_worker_is_none_where_the_global_one_is_given():
    two, four = (
        concept_settings(PersonalizeConfig(global_batch_size=8, batch_size=size), all_square=True)
        for size in (2, 4)
    )
    assert two == four
    assert "batch_size" not in two
    assert differences(two, WORN, "out")
    assert differences(WORN, two, "out") == ["global_batch_size was None and is 8 now"]


def test_an_older_concept_of_squashed_images_is_taken_with_a_word(caplog):
    caplog.set_level(logging.WARNING)
    wanted = concept_settings(PersonalizeConfig(), all_square=False)
    assert differences(WORN, wanted, "out/concept") == []
    assert "out/concept is from before images were cropped" in caplog.text
    caplog.clear()
    assert differences(WORN, {**WORN, "resize_mode": "squash"}, "out") == []
    assert caplog.text == ""
    squashed = {**WORN, "resize_mode": "squash"}
    assert differences(squashed, wanted, "out") == ["resize_mode was squash and is shorter now"]
