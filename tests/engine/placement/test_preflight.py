"""A check changes nothing. What it refuses is in tests/e2e/test_bad_input.py."""

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
