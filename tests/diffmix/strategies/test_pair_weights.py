"""Weights of (source, target) pairs, and a plan that is given some."""

import numpy as np
import pytest

from diffmix.config import MixConfig
from diffmix.plan import MixPlan
from diffmix.strategies.pair_weights import PAIR_WEIGHTS, Inverse, Uniform

LABELS = np.array([0] * 5 + [1] * 3 + [2])
IDS = [str(i) for i in range(9)]


class NeverItself:
    """All classes but the source's own."""

    identity = "never-itself"

    def table(self, class_sizes):
        return 1.0 - np.eye(len(class_sizes))


def plan_of(weights=None, **options) -> MixPlan:
    return MixPlan(MixConfig(count=3000, **options), LABELS, IDS, 3, 1, weights)


def test_uniform_and_inverse():
    sizes = np.array([5, 3, 1])
    assert (Uniform().table(sizes) == np.ones((3, 3))).all()
    assert (Inverse().table(sizes) == [[1 / 6, 1 / 4, 1 / 2]] * 3).all()


@pytest.mark.parametrize("name", PAIR_WEIGHTS)
def test_the_option_names_them(name):
    by_option = plan_of(target_sampling=name)
    given = plan_of(PAIR_WEIGHTS[name])
    assert by_option.settings["target_sampling"] == name
    assert given.settings == by_option.settings
    ids = np.arange(3000)
    for column, values in by_option.columns(ids).items():
        assert (values == given.columns(ids)[column]).all()


def test_a_plan_takes_other_weights_and_says_so():
    plan = plan_of(NeverItself())
    columns = plan.columns(np.arange(3000))
    assert (columns["source_label"] != columns["target_label"]).all()
    counts = np.zeros((3, 3))
    np.add.at(counts, (columns["source_label"], columns["target_label"]), 1)
    assert counts[~np.eye(3, dtype=bool)].min() > 350, "500 are expected of each pair"
    assert plan.settings == plan_of().settings | {"target_sampling": "never-itself"}
