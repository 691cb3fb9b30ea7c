"""The two sources of mixes answer the same questions. What a composed store's plan says is in
test_compose.py.
"""

import pytest

from diffmix.config import replace
from diffmix.datasets.prepare import prepare
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.mixing.mix_source import ComposedMixes, PlannedMixes, find_mix_source
from engine.mixing.store import MixStore, part_name
from engine.testing import mix_table


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


def test_mixes_are_counted_without_a_gate_by_the_plan_alone(made):
    """Parts that cannot be read show that none is opened."""
    config, out, real = made
    source = find_mix_source(out, real)
    source.open(config, None)
    assert source.counts(config) == (0, 0)
    plan, total = source.plan(config), 0
    for chunk in (0, 3, plan.num_chunks - 1):
        (source.store.folder).write(part_name(chunk), b"no part")
        total += len(plan.chunk_ids(chunk))
        assert source.counts(config) == (total, 0)


def test_mixes_that_a_gate_rejected_are_counted(made, tiny_clip):
    config, out, real = made
    gated = replace(config, **{"gate.clip": str(tiny_clip), "gate.threshold": 0.5})
    source = find_mix_source(out, real)
    source.open(gated, None)
    source.store.write(0, mix_table(4, accepted=[True, False, False, True]))
    assert source.counts(gated) == (2, 2)


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


def chunks(plan) -> list[list[int]]:
    return [plan.chunk_ids(index).tolist() for index in range(plan.num_chunks)]


@pytest.mark.parametrize("sized", ["count", "multiplier"])
def test_a_larger_plan_extends_a_store(made, sized):
    """The chunks of the smaller plan keep their numbers and their mixes, also the short ones."""
    config, out, real = made
    images = len(real)

    def of(mixes: int):
        if sized == "count":
            return replace(config, **{"mix.count": mixes})
        return replace(config, **{"mix.count": None, "mix.multiplier": mixes / images})

    source = find_mix_source(out, real)
    source.open(of(33), None)
    before, specs = chunks(source.plan(of(33))), source.plan(of(33)).chunk(2)
    source.check(of(50))
    assert source.store.identity["plan"]["planned"] == 33, "a check writes nothing"
    asked = chunks(source.plan(of(50)))
    source.open(of(50), None)
    assert source.store.identity["plan"]["planned"] == 50
    after = source.plan(of(50))
    assert chunks(after) == asked
    assert asked[: len(before)] == before
    assert after.chunk(2) == specs
    source.open(of(50), None)
    source.open(of(70), None)
    assert source.store.identity["plan"]["sizes"] == [33, 50]
    last = chunks(source.plan(of(70)))
    assert last[: len(asked)] == asked
    assert sorted(mix for chunk in last for mix in chunk) == list(range(70))
    with pytest.raises(UserError, match=r"plan\.planned is 70 there and 50 now"):
        source.check(of(50))
    larger = replace(of(80), **{"mix.guidance_scale": 3.0})
    with pytest.raises(UserError, match=r"plan: plan\.guidance_scale is 7\.5 there and 3\.0 now\."):
        source.check(larger)


def test_the_same_number_of_mixes_may_be_asked_for_in_two_ways(made):
    config, out, real = made
    source = find_mix_source(out, real)
    source.open(config, None)
    stored = source.store.identity
    other = {"mix.count": None, "mix.multiplier": config.mix.count / len(real)}
    source.open(replace(config, **other), None)
    assert source.store.identity == stored
