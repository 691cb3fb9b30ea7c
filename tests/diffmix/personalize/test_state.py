"""Checkpoints of personalization. A whole training that resumes from one is in test_train.py."""

import pytest
import torch

from diffmix.errors import UserError
from diffmix.format_version import FORMAT_VERSION, KEY
from diffmix.personalize.state import CHECKPOINT_FILE, TrainingState

IDENTITY = {"seed": 1}


def new_state(value: float) -> TrainingState:
    parameters = {"token": torch.nn.Parameter(torch.full((2,), value))}
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(parameters, torch.optim.SGD(parameters.values(), lr=1.0), scaler)


@pytest.fixture
def saved(tmp_path):
    new_state(0.25).save(tmp_path, IDENTITY, 7)
    return tmp_path


def rewrite(folder, **values) -> None:
    stored = torch.load(folder / CHECKPOINT_FILE, weights_only=True)
    kept = {key: value for key, value in (stored | values).items() if value is not None}
    torch.save(kept, folder / CHECKPOINT_FILE)


def test_a_checkpoint_is_restored_in_place(saved):
    state = new_state(0.5)
    assert state.load(saved, IDENTITY) == 7
    assert state.parameters["token"].tolist() == [0.25, 0.25]


def test_a_checkpoint_of_version_1_has_no_version_and_is_read(saved):
    rewrite(saved, **{KEY: None})
    assert new_state(0.5).load(saved, IDENTITY) == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({KEY: FORMAT_VERSION + 1}, r"personalize\.pt has format version"),
        ({"identity": {"seed": 2}}, "a run with other settings"),
        ({"identity": None}, "cannot be read"),
    ],
)
def test_what_is_refused(saved, change, says):
    rewrite(saved, **change)
    with pytest.raises(UserError, match=says):
        new_state(0.5).load(saved, IDENTITY)


@pytest.mark.parametrize("clip_tokens", [True, False])
def test_rows_are_clipped_with_the_lora_or_left_alone(clip_tokens):
    """Gradients 3 for a row and 4 for a LoRA matrix: their norm is 5, the LoRA's alone 4."""
    rows, lora = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    rows.grad, lora.grad = torch.tensor([3.0]), torch.tensor([4.0])
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.SGD([rows, lora], lr=1.0)
    TrainingState({"a.rows": rows, "b": lora}, optimizer, scaler).update(1.0, clip_tokens)
    stepped = [-rows.item(), -lora.item()]
    assert stepped == pytest.approx([0.6, 0.8] if clip_tokens else [3.0, 1.0], rel=1e-5)
