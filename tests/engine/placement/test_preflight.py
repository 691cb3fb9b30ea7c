"""A check changes nothing. What it refuses is in tests/e2e/test_bad_input.py."""

import shutil

import pytest

from diffmix.config import replace
from diffmix.errors import UserError
from diffmix.generator.base_model import NANO_FOLDER
from engine.mixing.mix_source import PlannedMixes
from engine.placement.preflight import check_inputs


def test_a_check_only_prepares_the_images(tmp_path, small_config):
    config = small_config(tmp_path / "out")
    inputs = check_inputs(config)
    assert inputs.config == config
    assert isinstance(inputs.source, PlannedMixes)
    assert len(inputs.data.train) > 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["data"]


def test_auto_is_the_number_of_the_stored_plan(tmp_path, small_config):
    check = check_inputs(small_config(tmp_path / "out"))
    check.source.open(check.config, None)
    auto = small_config(tmp_path / "out", **{"mix.batch": "auto"})
    inputs = check_inputs(auto)
    assert inputs.config.mix.batch == 4
    assert auto.mix.batch == "auto", "the given configuration stays as it is"
    new = check_inputs(small_config(tmp_path / "new", **{"mix.batch": "auto"}))
    assert new.config.mix.batch == "auto"


def test_the_reference_protocol_holds_nothing_out_and_says_so(tmp_path, small_config, caplog):
    usual = check_inputs(small_config(tmp_path / "usual"))
    reference = {"train.protocol": "reference"}
    inputs = check_inputs(small_config(tmp_path / "out", **reference))
    assert "--data.val_fraction 0.2 is not read" in caplog.text
    assert inputs.data.val is None
    assert len(inputs.data.train) == len(usual.data.train) + len(usual.data.val)
    check_inputs(small_config(tmp_path / "out", **reference))
    crowd = {"placement.trainers": 64, "train.batch_size": 64, **reference}
    check_inputs(small_config(tmp_path / "out", **crowd))
    with pytest.raises(UserError, match="trainers 64 is more than there are training images"):
        check_inputs(small_config(tmp_path / "out", **crowd), trains=True)
    with pytest.raises(UserError, match=r"val_fraction 0\.2, but --train\.protocol reference"):
        check_inputs(small_config(tmp_path / "usual", **reference))


def test_an_oracle_that_is_missing_is_said_before_the_run_and_not_at_its_end(
    tmp_path, small_config, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = small_config(tmp_path / "out", **{"run.oracle": "./nowhere"})
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere holds no classifier"):
        check_inputs(config)


def test_relative_paths_are_absolute_for_the_workers(tmp_path, small_config, monkeypatch):
    """Also where no command line has made them so."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(NANO_FOLDER, tmp_path / "models" / "sd15")
    inputs = check_inputs(small_config("out", **{"model.base": "models/sd15"}))
    assert inputs.config.model.base == f"{tmp_path}/models/sd15"
    assert inputs.config.out == f"{tmp_path}/out"


def test_long_class_names_in_prompts_are_said_once(tmp_path, small_config, write_images, caplog):
    photos = write_images(tmp_path / "photos", ["short", "very " * 30, "long " * 20], 4)
    options = {"data.train": str(photos), "data.superclass": "bird", "data.shots": None}
    config = small_config(tmp_path / "out", **options, **{"mix.strategy": "real-mix"})
    check_inputs(config)
    assert "2 of 3 prompts are longer than what the base model reads" in caplog.text
    caplog.clear()
    check_inputs(replace(config, **{"mix.strategy": "diff-mix", "out": str(tmp_path / "tokens")}))
    assert not caplog.text, "a token stands for the name"
