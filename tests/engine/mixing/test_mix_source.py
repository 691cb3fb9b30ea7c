"""The two sources of mixes answer the same questions. What a composed store's plan says is in
test_compose.py.
"""

import pytest

from diffmix.config import replace
from diffmix.datasets.prepare import prepare
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.mixing.mix_source import ComposedMixes, PlannedMixes, find_mix_source
from engine.mixing.store import MixStore


@pytest.fixture
def made(tmp_path, small_config):
    """(configuration, run folder, training images)"""
    config = small_config(tmp_path / "out")
    return config, Folder(config.out), prepare(config.data, config.out).train


def test_a_run_plans_its_own_mixes(made):
    config, out, real = made
    source = find_mix_source(out, real)
    assert isinstance(source, PlannedMixes)
    assert source.makes_mixes
    assert not source.uses_concept(config)
    assert source.uses_concept(replace(config, **{"mix.strategy": "diff-mix"}))
    assert len(source.plan(config)) == config.mix.count
    source.check(config)
    assert not source.store.identity, "a check writes nothing"
    source.open(config, None)
    assert source.store.identity["class_names"] == real.class_names
    source.settle(config)
    with pytest.raises(UserError, match=r"plan\.guidance_scale is 7\.5 there and 3\.0 now"):
        source.check(replace(config, **{"mix.guidance_scale": 3.0}))


def test_what_was_composed_is_taken_as_it_is(made):
    config, out, real = made
    identity = {"composed": [], "class_names": real.class_names, "planned": 0, "seed": 0}
    MixStore((out / "mixes").uri).bind(identity)
    source = find_mix_source(out, real)
    assert isinstance(source, ComposedMixes)
    assert not source.makes_mixes
    gated = replace(config, **{"mix.strategy": "diff-mix", "gate.clip": "nowhere"})
    assert not source.uses_concept(gated)
    assert source.plan(gated).num_chunks == 0
    source.check(gated)
    source.open(gated, None)
    source.settle(gated)
    assert source.store.identity == identity
