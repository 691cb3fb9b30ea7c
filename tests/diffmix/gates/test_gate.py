"""How a gate is chosen, and its rule: what of its scores is accepted. Covers `gates/__init__.py`
too.
"""

import json
import pickle

import numpy as np
import pytest

from diffmix import gates
from diffmix.config import Config, GateConfig
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.gates import make_rule, quantile_cut
from diffmix.gates.accuracy import AccuracyGate
from diffmix.gates.clip import ClipGate


def rule_of(**options):
    return make_rule(GateConfig(**options), "bird", ["a", "b"])


def test_a_threshold_is_decided_at_once_and_a_quantile_later(tiny_clip):
    scores = np.array([0.2, 0.5, 0.8], dtype=np.float32)
    by_threshold = rule_of(clip=str(tiny_clip), threshold=0.5, quantile=0.3)
    assert by_threshold.accepts(scores).tolist() == [False, True, True]
    assert by_threshold.quantile is None, "a threshold overrides the quantile"
    by_quantile = rule_of(clip=str(tiny_clip), quantile=0.3)
    assert by_quantile.accepts(scores).all()
    assert by_threshold.scorer == by_quantile.scorer, "their scores are the same"
    assert by_quantile.decided_by(GateConfig(threshold=0.5)) == by_threshold
    assert rule_of() is None


def test_the_quantile_is_the_references_percentile():
    scores = np.random.default_rng(0).random(237).astype(np.float32)
    kept = scores.astype(float) >= quantile_cut(scores, 0.1)
    assert (kept == (scores.astype(float) >= np.percentile(scores.astype(float), 10))).all()
    assert (~kept).sum() == 24  # the lowest tenth of 237
    assert (scores >= quantile_cut(scores, 0.0)).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [("threshold", 1.5), ("threshold", -0.1), ("quantile", 1.0), ("top_k", 0)],
)
def test_options_out_of_range(option, value):
    config = Config(gate=GateConfig(**{option: value}))
    with pytest.raises(UserError, match=f"--gate.{option} is {value}"):
        check(config)


def test_the_gate_is_the_one_whose_option_is_set():
    assert gates.choose(GateConfig()) is None
    assert gates.choose(GateConfig(clip="openai/x")) == ("clip", ClipGate)
    assert gates.choose(GateConfig(classifier="nano")) == ("accuracy", AccuracyGate)
    both = GateConfig(clip="openai/x", classifier="nano")
    with pytest.raises(UserError, match=r"--gate\.classifier and --gate\.clip ask for different"):
        gates.choose(both)
    clip = GateConfig(clip="openai/x", classifier="nano", kind="clip")
    assert gates.choose(clip) == ("clip", ClipGate)
    with pytest.raises(UserError, match=r"--gate\.kind accuracy needs --gate\.classifier"):
        gates.choose(GateConfig(kind="accuracy"))
    with pytest.raises(UserError, match=r"acuracy is not a gate; did you mean accuracy\?"):
        gates.choose(GateConfig(kind="acuracy"))


@pytest.mark.parametrize("options", [{"clip": "openai/x"}, {"classifier": "nano", "top_k": 3}])
def test_a_rule_travels_and_is_read_again(options):
    rule = rule_of(**options)
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert gates.rule_from_json(json.loads(json.dumps(rule.to_json()))) == rule
