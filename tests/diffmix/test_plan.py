import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from diffmix.config import MixConfig
from diffmix.errors import UserError
from diffmix.plan import MixPlan, denoising_steps, total_steps

LABELS = np.array([0] * 10 + [1] * 3 + [2] * 7 + [3] * 1)
IDS = [f"c{label}/{i}.jpg" for i, label in enumerate(LABELS)]


def make(seed=5, **settings) -> MixPlan:
    return MixPlan(MixConfig(**settings), LABELS, IDS, 4, seed)


def test_size_is_multiplier_times_images_or_count():
    assert len(make(multiplier=5)) == 105
    assert len(make(count=17)) == 17


def test_any_part_in_any_order_is_the_same():
    plan = make(strength=(0.3, 0.5, 0.7), count=200)
    forwards = [plan[i] for i in range(200)]
    backwards = [make(strength=(0.3, 0.5, 0.7), count=200)[i] for i in reversed(range(200))]
    assert forwards == backwards[::-1]
    scattered = plan.columns(np.array([199, 0, 57]))
    assert [scattered["seed"][k] for k in range(3)] == [forwards[i].seed for i in (199, 0, 57)]


def test_a_longer_plan_starts_with_the_shorter_one():
    assert [make(count=50)[i] for i in range(50)] == [make(count=500)[i] for i in range(50)]


def test_seed_changes_everything():
    first, second = make(count=100, seed=1), make(count=100, seed=2)
    assert len({first[i].seed for i in range(100)} & {second[i].seed for i in range(100)}) == 0


def test_sources_belong_to_their_class():
    plan = make(count=300)
    for spec in (plan[i] for i in range(300)):
        assert LABELS[IDS.index(spec.source_id)] == spec.source_label


@pytest.mark.parametrize("strategy", ["real-mix", "ti-mix", "diff-mix"])
def test_mix_draws_source_and_target_classes_uniformly_and_independently(strategy):
    columns = make(strategy=strategy, count=8000).columns(np.arange(8000))
    table = np.zeros((4, 4))
    np.add.at(table, (columns["source_label"], columns["target_label"]), 1)
    assert (
        stats.chisquare(table.ravel()).pvalue > 1e-3
    )  # 16 equal cells: uniform, independent, self-pairs included
    of_first_class = columns["source"][columns["source_label"] == 0]
    assert stats.chisquare(np.bincount(of_first_class, minlength=10)[:10]).pvalue > 1e-3


@pytest.mark.parametrize("strategy", ["real-aug", "ti-aug", "diff-aug"])
def test_aug_keeps_the_class(strategy):
    columns = make(strategy=strategy, count=500).columns(np.arange(500))
    assert (columns["source_label"] == columns["target_label"]).all()
    assert (columns["source"] >= 0).all()


@pytest.mark.parametrize("strategy", ["real-gen", "diff-gen"])
def test_gen_has_no_source_and_full_strength(strategy):
    plan = make(strategy=strategy, count=4000)
    assert plan[3].source_id == ""
    assert plan[3].strength == 1.0
    columns = plan.columns(np.arange(4000))
    assert stats.chisquare(np.bincount(columns["target_label"])).pvalue > 1e-3


def test_long_tail_sampling():
    columns = make(source_sampling="image", target_sampling="inverse", count=20000).columns(
        np.arange(20000)
    )
    assert stats.chisquare(np.bincount(columns["source"], minlength=21)).pvalue > 1e-3
    weights = 1 / (np.array([10, 3, 7, 1]) + 1)
    assert (
        stats.chisquare(
            np.bincount(columns["target_label"]), 20000 * weights / weights.sum()
        ).pvalue
        > 1e-3
    )


def test_referred_classes_limits_each_sources_targets():
    columns = make(referred_classes=2, count=4000).columns(np.arange(4000))
    for label in range(4):
        assert len(np.unique(columns["target_label"][columns["source_label"] == label])) == 2


def test_strengths():
    listed = make(strength=(0.3, 0.9), count=4000).columns(np.arange(4000))["strength"]
    assert set(np.unique(listed)) == {np.float32(0.3), np.float32(0.9)}
    assert stats.chisquare(np.unique(listed, return_counts=True)[1]).pvalue > 1e-3
    beta = make(strength_beta=(5.0, 5.0), count=4000).columns(np.arange(4000))["strength"]
    assert beta.min() >= np.float32(0.1)
    assert beta.max() <= np.float32(0.9)
    inside = beta[(beta > 0.1) & (beta < 0.9)]
    cut = stats.beta(5, 5)
    low, high = cut.cdf([0.1, 0.9])
    assert stats.kstest(inside, lambda x: (cut.cdf(x) - low) / (high - low)).pvalue > 1e-3


@pytest.mark.parametrize(
    "settings",
    [{"strength": (0.7,)}, {"strength": (0.3, 0.5, 0.7, 0.9)}, {"strength_beta": (5.0, 5.0)}],
)
def test_chunks_cover_the_plan_once_with_equal_steps(settings):
    plan = make(count=333, batch=8, **settings)
    ids = np.concatenate([plan.chunk_ids(i) for i in range(plan.num_chunks)])
    assert sorted(ids.tolist()) == list(range(333))
    for i in range(plan.num_chunks):
        steps = {int(denoising_steps(spec.strength, 25)) for spec in plan.chunk(i)}
        assert len(steps) == 1
        assert len(plan.chunk_ids(i)) <= 8
        assert [spec.mix_id for spec in plan.chunk(i)] == plan.chunk_ids(i).tolist()


@pytest.mark.parametrize("steps", [1, 4, 25, 50, 100])
@pytest.mark.parametrize("strength", [0.01, 0.1, 0.28, 0.29, 0.3, 0.5, 0.56, 0.7, 0.9, 1.0])
def test_steps_are_counted_as_diffusers_counts_them(steps, strength):
    assert denoising_steps(np.float32(strength), steps) == min(int(steps * strength), steps)


def test_settings_name_what_images_depend_on():
    assert make().settings == make(gamma=0.9, synthetic_p=0.7, soft_scale=0.9).settings
    assert make().settings != make(guidance_scale=3.0).settings
    assert make().settings != make(seed=6).settings


def test_class_without_images():
    with pytest.raises(UserError, match="Class number 3"):
        MixPlan(MixConfig(), LABELS[:20], IDS[:20], 4, 0)


def test_the_identity_of_the_images_is_made_block_by_block(monkeypatch):
    """It is the SHA-256 of one JSON text, as before plans were cut into blocks."""
    text = json.dumps([IDS, LABELS.tolist()])
    for block in (1, 4, 1000):
        monkeypatch.setattr("diffmix.plan.BLOCK", block)
        found = make(count=3).settings
        assert found["images"] == hashlib.sha256(text.encode()).hexdigest()
        assert "sizes" not in found
    awkward = ['a"b/ü.jpg', "翠鸟/\\1.jpg"]
    plan = MixPlan(MixConfig(count=1), np.array([0, 1]), awkward, 2, 0)
    wanted = hashlib.sha256(json.dumps([awkward, [0, 1]]).encode()).hexdigest()
    assert plan.settings["images"] == wanted


def test_steps_are_counted_block_by_block(monkeypatch):
    plan = make(count=50, strength=(0.3, 0.7))
    by_hand = sum(int(25 * round(plan[i].strength, 6)) for i in range(50))
    monkeypatch.setattr("diffmix.plan.BLOCK", 7)
    assert total_steps(plan, 25) == by_hand


def test_ids_may_be_an_arrow_column():
    column = pa.chunked_array([pa.array(IDS[:5]), pa.array(IDS[5:])])
    plan = MixPlan(MixConfig(count=30), LABELS, column, 4, 5)
    assert plan.settings == make(count=30).settings
    assert [plan[i] for i in range(30)] == [make(count=30)[i] for i in range(30)]
