"""Token vectors of other people: those that no text encoder could read are one sentence each."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffmix.errors import UserError
from diffmix.generator.base_model import load_base, text_widths
from diffmix.generator.concept import Concept
from diffmix.generator.token_vectors import add_tokens, spell

TOKENS = {"lynx": "<class_0>", "red fox": "<class_1>"}
FINE = {token: torch.arange(32.0) + place for place, token in enumerate(TOKENS.values())}


def with_one(rows) -> dict:
    return {**FINE, "<class_1>": rows}


WRONG = {
    "there are none for <class_1>, the token of 'red fox'": {"<class_0>": FINE["<class_0>"]},
    "those of <class_1> are not finite": with_one(torch.full((32,), torch.nan)),
    "<class_1> has 2, and others have 1": with_one(torch.zeros(2, 32)),
    "those of <class_1> have the shape (2, 2, 32)": with_one(torch.zeros(2, 2, 32)),
    "those of <class_1> have the shape ()": with_one(torch.tensor(1.0)),
    "those of <class_1> have the shape (1, 0)": with_one(torch.zeros(1, 0)),
    "those of <class_1> are no floating-point numbers": with_one(torch.ones(32, dtype=torch.long)),
    "those of <class_0> have 32 values, those of <class_1> 48": with_one(torch.zeros(48)),
}


def of_the_reference(folder, rows, tokens=TOKENS) -> Concept:
    folder.mkdir()
    stored = {"learned_embeds_dict": rows, "name2placeholder": tokens, "placeholder2name": {}}
    torch.save(stored, folder / "learned_embeds-steps-last.bin")
    return Concept.load(folder)


def of_ours(folder, rows, vectors=1, rows_2=None) -> Concept:
    concept = Concept(
        class_names=list(TOKENS),
        superclass="animal",
        tokens=TOKENS,
        vectors_per_token=vectors,
        lora_rank=0,
        base="base",
        revision=None,
        base_fingerprint="",
        steps=1,
        seed=0,
        data_fingerprint="",
    )
    return concept.save(folder, rows, {}, rows_2)


@pytest.mark.parametrize("why", WRONG)
def test_unreadable_vectors_of_the_reference_are_refused(tmp_path, why):
    concept = of_the_reference(tmp_path / "theirs", WRONG[why])
    with pytest.raises(UserError) as caught:
        concept.check_vectors([32])
    assert str(caught.value) == (
        f"The token vectors in {tmp_path}/theirs cannot be used ({why}); train them again or "
        "choose another --personalize.concept."
    )


@pytest.mark.parametrize("why", WRONG)
def test_unreadable_vectors_in_safetensors_are_refused(tmp_path, why):
    of_ours(tmp_path / "ours", {token: rows[None] for token, rows in FINE.items()})
    save_file(WRONG[why], tmp_path / "ours" / "learned_embeds.safetensors")
    concept = Concept.load(tmp_path / "ours")
    with pytest.raises(UserError) as caught:
        concept.check_vectors([32])
    assert f"cannot be used ({why});" in str(caught.value)


def test_two_classes_with_one_token_are_refused(tmp_path):
    concept = of_the_reference(tmp_path / "theirs", FINE, dict.fromkeys(TOKENS, "<class_0>"))
    with pytest.raises(UserError, match="'lynx' and 'red fox' have one token, <class_0>"):
        concept.embeds()


def test_a_broken_file_is_refused(tmp_path):
    concept = of_ours(tmp_path / "ours", {token: rows[None] for token, rows in FINE.items()})
    file = tmp_path / "ours" / "learned_embeds.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"learned_embeds\.safetensors is broken"):
        concept.embeds()


@pytest.mark.parametrize("form", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(32,), (1, 32)])
def test_what_others_write_is_read(tmp_path, form, shape):
    """As `train_lora.py` [dim] and diffusers' textual inversion [1, dim], in any precision."""
    rows = {token: row.reshape(shape).to(form) for token, row in FINE.items()}
    concept = of_the_reference(tmp_path / "theirs", rows)
    concept.check_vectors([32])
    for token, row in concept.embeds().items():
        assert row.dtype == torch.float32
        assert torch.equal(row, FINE[token][None])


def test_the_width_is_that_of_the_base(tmp_path, tiny_model):
    assert text_widths(tiny_model) == [32]
    concept = of_the_reference(tmp_path / "theirs", {t: torch.zeros(1024) for t in FINE})
    with pytest.raises(UserError, match="1024 values for a text encoder of 32"):
        concept.check_vectors(text_widths(tiny_model))


def test_sdxl_has_two_widths(tmp_path, tiny_xl):
    from diffmix.config import ModelConfig

    pipe = load_base(ModelConfig(base=str(tiny_xl)), "cpu", torch.float32)
    widths = text_widths(ModelConfig(base=str(tiny_xl)))
    tables = [{token: torch.zeros(2, width) for token in FINE} for width in widths]
    concept = of_ours(tmp_path / "ours", tables[0], 2, tables[1])
    concept.check_vectors(widths)
    concept.apply(pipe)
    with pytest.raises(UserError, match="for 2 text encoders, where the base has 1"):
        concept.check_vectors(widths[:1])
    with pytest.raises(UserError, match="for 1 text encoders, where the base has 2"):
        of_the_reference(tmp_path / "theirs", FINE).check_vectors(widths)

    file = tmp_path / "ours" / "learned_embeds.safetensors"
    rows = load_file(file)
    for lost in ("clip_l", "clip_g"):
        shutil.copytree(tmp_path / "ours", tmp_path / lost)
        save_file({**rows, lost: rows[lost][:-1].clone()}, tmp_path / lost / file.name)
        with pytest.raises(UserError, match="there are 3 rows for 2 tokens of 2"):
            Concept.load(tmp_path / lost).check_vectors(widths)


@pytest.mark.parametrize("vectors", [1, 2])
@pytest.mark.parametrize("token", ["<Class_0>", "<ClAß 0>", "<$%{}\\_>", "<فئة>", "<類>", "sks"])
def test_tokens_of_any_characters_are_read_or_refused(tiny_model, token, vectors):
    pipe = load_base(tiny_model, "cpu", torch.float32)
    first = len(pipe.tokenizer)
    if token.casefold() != token and vectors > 1:
        with pytest.raises(ValueError, match="does not read all 2 of '<Cl"):
            add_tokens(pipe, {token: torch.ones(vectors, 32)})
        return
    add_tokens(pipe, {token: torch.ones(vectors, 32)})
    text = pipe.maybe_convert_prompt(f"a photo of a {token} bird", pipe.tokenizer)
    ids = pipe.tokenizer(text, add_special_tokens=False).input_ids
    assert [number for number in ids if number >= first] == list(range(first, first + vectors))


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"<a>": torch.ones(80, 32)}, "80 vectors for <a>, where a prompt has 75"),
        ({"_": torch.ones(1, 32)}, "some of its tokens are in the tokenizer already"),
        ({"": torch.ones(1, 32)}, "in the tokenizer already"),
    ],
)
def test_tokens_that_no_prompt_can_hold_are_refused(tiny_model, table, why):
    pipe = load_base(tiny_model, "cpu", torch.float32)
    with pytest.raises(ValueError, match=why):
        add_tokens(pipe, table)


def test_spelling_is_that_of_diffusers():
    assert spell("<a>", 1) == ["<a>"]
    assert spell("<a>", 3) == ["<a>", "<a>_1", "<a>_2"]
