"""Demands against numbers worked by hand."""

import pytest

from diffmix.config import Config, PlacementConfig, RunConfig
from engine.placement.demand import demand


def config(mode: str = "overlapped", **placement) -> Config:
    return Config(run=RunConfig(mode=mode), placement=PlacementConfig(**placement))


@pytest.mark.parametrize(("mode", "gpus", "cpus"), [("overlapped", 4, 15), ("staged", 3, 9)])
def test_staged_phases_take_turns(mode, gpus, cpus):
    sizes = {"mixers": (2, 8), "trainers": 3, "gpus_per_mixer": 0.5, "cpus_per_mixer": 2.5}
    need = demand(config(mode, **sizes, cpus_per_trainer=3))
    assert (need.mixers, need.trainers) == (2, 3), "the smallest pool is enough"
    assert need.gpus == gpus
    assert need.cpus == cpus  # mixing: 2 * 2.5 and one that reads sources; training: 3 * 3


def test_a_phase_alone():
    assert demand(config(mixers=(4,)), trains=False).gpus == 4
    assert demand(config(mixers=(4,)), mixes=False).gpus == 1
    assert demand(config(), mixes=False).mixer_cpus == 0


def test_numbers_that_are_chosen_later_count_as_one():
    need = demand(config(auto=True, mixers=(5,), trainers=4))
    assert (need.mixers, need.trainers, need.gpus) == (1, 1, 2)
