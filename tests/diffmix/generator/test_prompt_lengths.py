"""Prompts that a text encoder cannot read to their end."""

import pytest

from diffmix.config import ModelConfig
from diffmix.errors import UserError
from diffmix.generator.base_model import base_path
from diffmix.generator.prompt_encoder import check_lengths

NANO, MOST = ModelConfig(base="nano"), 32


def tokens(text: str) -> int:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(base_path(NANO), subfolder="tokenizer")
    return len(tokenizer(text, verbose=False).input_ids)


def test_prompts_that_are_cut_are_named():
    long = "z" * 300
    prompts = {"a": "a photo of a bird", "b": f"a photo of a {long}", "c": f"{long} 2, " * 20}
    assert tokens(prompts["b"]) > MOST
    assert check_lengths(NANO, prompts) == [prompts["b"], prompts["c"]]
    assert check_lengths(NANO, {"a": prompts["a"]}) == []
    exactly = next(text for n in range(400) if tokens(text := "z" * n) == MOST)
    assert check_lengths(NANO, {"a": exactly}) == []
    assert check_lengths(NANO, {"a": exactly + " z"}) == [exactly + " z"]


def test_two_classes_that_are_the_same_after_the_cut_are_refused():
    prompts = {name: f"a photo of a {name}" for name in ("z " * 80 + "north", "z " * 80 + "south")}
    with pytest.raises(UserError, match="have the same prompt in the 30 tokens"):
        check_lengths(NANO, prompts)
    with pytest.raises(UserError) as caught:
        check_lengths(NANO, prompts)
    assert len(str(caught.value)) < 350
