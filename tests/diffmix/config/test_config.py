"""Covers `diffmix/config/__init__.py`; the groups are declarations, checked in
`tests/diffmix/options/test_option.py` and `tests/jobs/test_options.py`.
"""

import dataclasses
import json

import pytest

from diffmix.config import Config, replace, to_dict


def test_replace_gives_a_new_configuration():
    config = Config(out="a")
    changed = replace(config, **{"mix.count": 3, "mix.batch": 2, "out": "b"})
    assert (changed.mix.count, changed.mix.batch, changed.out) == (3, 2, "b")
    assert config == Config(out="a")
    assert replace(changed, **{"mix.count": None, "mix.batch": 16, "out": "a"}) == config
    assert changed.train is config.train
    assert replace(config.mix, count=3).count == 3


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().mix.count = 3


@pytest.mark.parametrize("option", ["mix.cuont", "cuont"])
def test_replace_knows_no_other_options(option):
    with pytest.raises(TypeError, match="cuont"):
        replace(Config(), **{option: 3})


def test_to_dict_is_plain():
    plain = to_dict(Config())
    assert json.loads(json.dumps(plain)) == plain
    assert plain["mix"]["strength"] == [0.7]
