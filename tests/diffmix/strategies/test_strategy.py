"""Strategies as records: the paper's eight, and one of a user's own in the plan.

Covers `diffmix/strategies/mix_spec.py` and `diffmix/strategies/paper.py` too.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from diffmix import strategies
from diffmix.config import Config, MixConfig
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.plan import MixPlan, MixSpec
from diffmix.strategies import PromptContext, Strategy

OWN = Strategy(name="echo", generator="base", from_noise=False, target="same")
CONTEXT = PromptContext(
    class_names=["fox", "wolf"],
    superclass="animal",
    tokens=["<a>", "<b>"],
    class_prompts=["a photo of a <a> animal", "a photo of a <b> animal"],
    negative_prompt="blurry",
)


def test_the_papers_eight_are_there():
    assert strategies.names() == [
        *("real-gen", "real-aug", "real-mix", "ti-aug", "ti-mix"),
        *("diff-gen", "diff-aug", "diff-mix"),
    ]


@pytest.mark.parametrize("name", strategies.names())
def test_a_name_says_what_the_record_is(name):
    generator, kind = name.split("-")
    found = strategies.find(name)
    assert found.generator == {"real": "base", "ti": "tokens", "diff": "concept"}[generator]
    assert found.uses_concept == (generator != "real")
    assert found.from_noise == (kind == "gen")
    assert (found.target == "same") == (kind == "aug")


def test_prompts_are_the_target_classs_and_the_options():
    spec = MixSpec(
        mix_id=0, source_id="image", source_label=0, target_label=1, strength=0.7, seed=0
    )
    strategy = strategies.find("diff-mix")
    assert strategy.prompt(CONTEXT, spec) == "a photo of a <b> animal"
    assert strategy.negative_prompt(CONTEXT, spec) == "blurry"


def test_a_plan_takes_a_strategy_of_ones_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_module", SimpleNamespace(OWN=OWN))
    config = MixConfig(strategy="own_module:OWN", count=50)
    plan = MixPlan(config, np.array([0, 0, 1, 1]), ["a", "b", "c", "d"], 2, 0)
    columns = plan.columns(np.arange(50))
    assert (columns["source_label"] == columns["target_label"]).all()
    assert plan.settings["strategy"] == "own_module:OWN"


def test_an_unknown_strategy_is_said_before_anything_starts():
    with pytest.raises(UserError, match=r"--mix\.strategy is diff-mx.*diff-mix"):
        check(Config(mix=MixConfig(strategy="diff-mx")))
    with pytest.raises(UserError, match=r"--mix\.strategy nowhere:X cannot be imported"):
        check(Config(mix=MixConfig(strategy="nowhere:X")))
