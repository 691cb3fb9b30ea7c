"""What the UNet is told. The embedding of a whole prompt is checked against its formula: stock
transformers and diffusers read it at another place once tokens were added.
"""

import pytest
import torch

from diffmix.config import ModelConfig
from diffmix.generator.base_model import load_base
from diffmix.generator.concept import add_tokens
from diffmix.generator.prompt_encoder import PromptEncoder, end_positions
from diffmix.personalize.modules import DenoisingLoss, add_rows

TEXTS = ["a photo of a <class_0> cat", "a photo of a <class_0> dog", "a photo of a cat"]


@pytest.fixture
def xl(tiny_xl):
    return load_base(ModelConfig(base=str(tiny_xl)), "cpu", torch.float32)


def test_a_text_ends_at_its_first_end_token():
    """CLIP's vocabulary: 49406 starts a text, 49407 ends it and fills it up, 49408 was added."""
    added = [49406, 320, 1125, 539, 320, 49408, 3329, 49407]
    filled = [49406, 320, 2368, 49407, 49407, 49407, 49407, 49407]
    zeros = [49406, 49409, 49407, 0, 0, 0, 0, 0]  # SDXL's second tokenizer fills up with 0
    assert end_positions(torch.tensor([added, filled, zeros]), 49407).tolist() == [7, 3, 2]


def by_formula(pipe, text: str) -> torch.Tensor:
    """The projection of the last layer's normed output at the end of the text."""
    encoder, tokenizer = pipe.text_encoder_2, pipe.tokenizer_2
    ids = tokenizer(text).input_ids  # not filled up: what comes after cannot be seen
    assert ids[-1] == tokenizer.eos_token_id
    with torch.no_grad():
        hidden = encoder(torch.tensor([ids])).last_hidden_state
        return hidden[0, -1] @ encoder.text_projection.weight.T


def test_words_behind_a_class_token_are_in_the_whole_prompts_embedding(xl):
    rows = {"<class_0>": torch.randn((1, 32), generator=torch.Generator().manual_seed(0))}
    rows_2 = {"<class_0>": torch.randn((1, 48), generator=torch.Generator().manual_seed(1))}
    add_tokens(xl, rows, rows_2)
    pooled = PromptEncoder(xl, 32).encode(TEXTS).pooled
    for text, row in zip(TEXTS, pooled, strict=True):
        torch.testing.assert_close(row, by_formula(xl, text))
    assert (pooled[0] - pooled[1]).abs().max() > 1e-2
    # Stock does not tell the two apart.
    stock = [xl.encode_prompt(text, device="cpu")[2][0] for text in TEXTS]
    assert torch.equal(stock[0], stock[1])
    torch.testing.assert_close(pooled[2], stock[2])


def test_so_they_are_in_training(xl):
    add_rows(xl, ["<class_0>"], ["animal"], 1)
    loss = DenoisingLoss(xl, TEXTS, 32, trains_text=True, snr_gamma=None)
    pooled = loss.encoder(loss.prompt_ids[torch.arange(2)]).pooled
    for text, row in zip(TEXTS, pooled, strict=False):
        torch.testing.assert_close(row, by_formula(xl, text))
    assert (pooled[0] - pooled[1]).abs().max() > 1e-2
    pooled.sum().backward()
    assert xl.text_encoder_2.get_input_embeddings().rows.grad.abs().max() > 0
