"""Personalization where memory runs out, with a stand-in that raises what torch raises."""

import pytest
import torch

from diffmix.config import PersonalizeConfig
from diffmix.errors import UserError
from diffmix.personalize.rows import Rows
from diffmix.personalize.train import Attempt, ConceptTraining
from diffmix.storage import Folder


@pytest.fixture
def training(tmp_path, tiny_model, tiny_real):
    """`training(**options)` with a batch of 8: 2 and `large_batch 4`."""

    def make(said=None, **options):
        options = {"steps": 8, "batch_size": 2, "large_batch": 4, "lora_rank": 2, **options}
        attempt = Attempt(on_note=said.append if said is not None else None)
        config = PersonalizeConfig(**options)
        return ConceptTraining(tiny_model, config, tiny_real, 0, attempt, Folder(str(tmp_path)))

    return make


def limited(training, most: int, monkeypatch) -> list[int]:
    """Let the backward pass of the training's UNet fit `most` rows; gives what it was asked for."""
    rows = []
    forward = training.loss.forward

    def full(latents, *more):
        rows.append(len(latents))
        loss = forward(latents, *more)
        if len(latents) > most:
            # As in a real one: some gradients are there already.
            loss.backward(retain_graph=True)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return loss

    monkeypatch.setattr(training.loss, "forward", full)
    return rows


def weights(training) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in training.state.parameters.values()])


def test_a_large_batch_falls_back_to_accumulation(training, monkeypatch, caplog):
    said = []
    usual, small = training(), training(said)
    before = weights(usual)
    rows = limited(small, 3, monkeypatch)
    losses = [[one.step(number).item() for number in range(2)] for one in (usual, small)]
    assert rows == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]  # and it is remembered
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    moved = (weights(usual) - before).abs()
    assert (weights(small) - weights(usual)).abs().max() < 0.02 * moved.max()
    assert said[-1] == (
        "memory ran out (CUDA out of memory): personalization accumulates 2 images at a time"
    )
    assert said[-1] in caplog.text


def test_one_image_that_does_not_fit_is_one_sentence(training, monkeypatch):
    small = training()
    limited(small, 0, monkeypatch)
    with pytest.raises(UserError, match=r"1 images at once does not fit in memory .* lower"):
        small.step(0)


def test_a_worker_among_others_says_what_to_change():
    rows = Rows(alone=False)
    rows.most = 8

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match=r"8 images at once .*gradient_accumulation_steps"):
        rows.retried(full, lambda: None)
