"""Prompts of a mixer: every class's at once, others one by one and kept."""

import pytest
import torch

from diffmix.generator import prompt_table
from diffmix.generator.base_model import load_base
from diffmix.generator.prompt_encoder import PromptEncoder
from diffmix.generator.prompt_table import PromptTable

TEXTS = ["a photo of a cat", "a photo of a dog", ""]


@pytest.fixture(scope="module")
def encoder(tiny_base):
    from diffmix.config import ModelConfig

    return PromptEncoder(load_base(ModelConfig(base=str(tiny_base)), "cpu", torch.float32), 32)


def test_known_texts_are_rows_of_one_encoding(encoder):
    table = PromptTable(encoder, TEXTS)
    rows = table.rows([("", 2), (TEXTS[1], 1), (TEXTS[1], 1)])
    whole = encoder.encode(TEXTS)
    assert torch.equal(rows.hidden_states, whole.rows([2, 1, 1]).hidden_states)


def test_other_texts_do_not_depend_on_what_came_before(encoder, monkeypatch):
    table = PromptTable(encoder, TEXTS)
    wanted = [("a cat in snow", 0), (TEXTS[0], 0), ("a dog in snow", 1)]
    rows = table.rows(wanted).hidden_states
    alone = [encoder.encode([text]).hidden_states for text, _ in wanted]
    alone[1] = encoder.encode(TEXTS).rows([0]).hidden_states
    assert torch.equal(rows, torch.cat(alone))
    fresh = PromptTable(encoder, TEXTS).rows(wanted[::-1]).hidden_states
    assert torch.equal(fresh.flip(0), rows)
    monkeypatch.setattr(encoder, "encode", None)  # any further call fails
    assert torch.equal(table.rows(wanted).hidden_states, rows)


def test_the_cache_is_bounded(encoder, monkeypatch):
    table = PromptTable(encoder, TEXTS)
    monkeypatch.setattr(prompt_table, "_CACHE_BYTES", 2 * table._row_bytes)
    for number in range(4):
        table.rows([(f"number {number}", 0)])
    assert list(table._others) == ["number 2", "number 3"]
