"""A check changes nothing. What it refuses is in tests/e2e/test_bad_input.py."""

import pytest

from diffmix.errors import UserError
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
