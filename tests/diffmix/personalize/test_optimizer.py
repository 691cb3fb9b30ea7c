"""AdamW's groups, 8-bit Adam where its library is installed, and the preset for large batches."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from diffmix.config import Config, PersonalizeConfig
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.personalize.large_batch import folded
from diffmix.personalize.optimizer import make_optimizer
from diffmix.personalize.train import Attempt, train_concept


def test_rows_and_lora_have_their_own_rates_and_rows_do_not_decay():
    trained = {
        "encoder.text_encoders.0.x.rows": torch.nn.Parameter(torch.ones(3, 2)),
        "unet.lora_A": torch.nn.Parameter(torch.ones(2)),
    }
    optimizer = make_optimizer(
        trained, PersonalizeConfig(token_lr=0.5, lora_lr=0.25, weight_decay=0.1)
    )
    for parameter in trained.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert trained["encoder.text_encoders.0.x.rows"].unique().item() == 1
    assert trained["unet.lora_A"].unique().item() == pytest.approx(1 - 0.25 * 0.1)
    trained["encoder.text_encoders.0.x.rows"].grad = torch.ones(3, 2)
    optimizer.step()
    assert trained["encoder.text_encoders.0.x.rows"].unique().item() < 0.9


def test_rows_decay_where_they_are_told_to():
    rows = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = make_optimizer(
        {"x.rows": rows}, PersonalizeConfig(token_lr=0.5, token_weight_decay=0.1)
    )
    rows.grad = torch.zeros_like(rows)
    optimizer.step()
    assert rows.unique().item() == pytest.approx(1 - 0.5 * 0.1)


def test_8_bit_adam_without_its_library_is_refused_in_a_sentence(
    tmp_path, monkeypatch, tiny_model, tiny_real, small_config
):
    from engine.placement.preflight import check_inputs

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        UserError, match=r"--personalize.use_8bit_adam needs bitsandbytes, which is not installed"
    ):
        train_concept(
            tiny_model, PersonalizeConfig(use_8bit_adam=True), tiny_real, tmp_path / "concept", 0
        )
    with pytest.raises(
        UserError, match="needs bitsandbytes"
    ):  # before a cluster is asked for anything
        check_inputs(small_config(tmp_path / "run", **{"personalize.use_8bit_adam": True}))


def test_8_bit_adam_learns_and_resumes(tmp_path, tiny_model, tiny_real):
    pytest.importorskip("bitsandbytes")
    # Its state is in 8 bits for matrices of 4096 values or more: the rows of 4 classes at 40
    # vectors of 32.
    config = PersonalizeConfig(
        steps=4,
        lora_rank=2,
        token_lr=1e-2,
        vectors_per_token=40,
        checkpoint_every=2,
        use_8bit_adam=True,
    )

    def weights(name, change, attempt=None):
        options = PersonalizeConfig(**{**vars(config), **change})
        folder = train_concept(tiny_model, options, tiny_real, tmp_path / name, 0, attempt).folder
        return load_file(folder / "learned_embeds.safetensors")

    def keep(folder, done):
        shutil.copytree(folder, tmp_path / "checkpoint")

    whole = weights("whole", {}, Attempt(on_checkpoint=keep))
    resumed = weights("resumed", {}, Attempt(resume_from=tmp_path / "checkpoint"))
    full = weights("full", {"use_8bit_adam": False})
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    difference = max((whole[key] - full[key]).abs().max() for key in whole)
    assert 0 < difference < 2e-2  # of steps that come to 4e-2


def test_large_batches_see_the_same_samples_in_fewer_steps(tmp_path, tiny_model, tiny_real):
    config = PersonalizeConfig(
        steps=9,
        batch_size=2,
        lora_rank=2,
        lora_lr=1e-3,
        token_lr=2e-3,
        weight_decay=0.1,
        checkpoint_every=6,
    )
    large = PersonalizeConfig(**{**vars(config), "large_batch": 4})
    by_hand = PersonalizeConfig(
        **{
            **vars(config),
            "steps": 3,
            "batch_size": 8,
            "lora_lr": 2e-3,
            "token_lr": 4e-3,
            "weight_decay": 0.2,
            "checkpoint_every": 2,
        }
    )
    assert folded(large) == by_hand
    assert folded(config) == config
    steps: list[int] = []
    seen: list[int] = []
    one = train_concept(
        tiny_model,
        large,
        tiny_real,
        tmp_path / "a",
        0,
        Attempt(
            on_step=lambda done, _: steps.append(done), on_checkpoint=lambda _, n: seen.append(n)
        ),
    )
    other = train_concept(tiny_model, by_hand, tiny_real, tmp_path / "b", 0)
    assert steps == [1, 2, 3]
    assert seen == [2]
    assert one.settings["large_batch"] == 4  # a run with the same options finds it again
    for name in ("learned_embeds.safetensors", "pytorch_lora_weights.safetensors"):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("prior_weight", -1.0),
        ("prior_images", 0),
        ("large_batch", 0),
        ("prompt_dropout", 1.5),
        ("snr_gamma", 0.0),
        ("noise_offset", -0.1),
    ],
)
def test_values_that_cannot_be_meant(option, value):
    config = Config(personalize=PersonalizeConfig(**{option: value}))
    with pytest.raises(UserError, match=f"--personalize.{option} is {value}"):
        check(config)
