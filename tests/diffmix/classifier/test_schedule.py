import math

import numpy as np
import pytest

from diffmix.classifier.schedule import Schedule, learning_rate, validated_every
from diffmix.config import TrainConfig
from diffmix.errors import UserError

REFERENCE = {"protocol": "reference", "lr": 1.0, "warmup_fraction": 0.1}
LONG_TAIL = {
    "lr": 1.0,
    "epochs": 200,
    "batch_size": 128,
    "warmup_fraction": 0.025,
    "lr_drop_epochs": (160, 180),
    "lr_per": "epoch",
    "last_batch": "short",
    "eval_every": 1,
}


def schedule(real_size: int, world_size: int = 1, **options) -> Schedule:
    return Schedule(TrainConfig(**options), real_size, world_size)


def rates(found: Schedule, epochs: int) -> np.ndarray:
    return np.array([found.rate(step) for step in range(epochs * found.steps)])


def test_the_cosine_begins_after_the_warm_up():
    found = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert found[0] == pytest.approx(0.2)
    assert found[9] == pytest.approx(2.0)
    assert found[10] == pytest.approx(2.0)
    assert found[55] == pytest.approx(1.0)  # half of the cosine's 90 steps
    assert found[99] == pytest.approx(1 + math.cos(math.pi * 89 / 90))
    assert found[:10] == sorted(found[:10])
    assert found[10:] == sorted(found[10:], reverse=True)


def test_no_warm_up():
    assert learning_rate(0, 10, 1.0, 0.0) == 1.0


def test_drops_instead_of_the_cosine():
    found = [learning_rate(step, 20, 2.0, 0.1, drops=[16, 18]) for step in range(20)]
    assert found == pytest.approx([1.0, 2.0, *[2.0] * 14, 0.02, 0.02, 0.0002, 0.0002])
    milder = [learning_rate(step, 4, 1.0, 0.0, drops=[2], drop_factor=0.1) for step in range(4)]
    assert milder == [1, 1, 0.1, 0.1]


def test_usual_epochs_are_full_batches_that_cover_all_images():
    found = schedule(50, batch_size=8, epochs=3, lr=0.5)
    assert (found.batch_size, found.samples, found.steps, found.skipped) == (8, 56, 7, 0)
    expected = [learning_rate(step, 21, 0.5, 0.1) for step in range(21)]
    assert rates(found, 3).tolist() == expected


def test_five_shot_cub_as_the_reference_trains_it():
    """T is 390, but 300 steps are run: three full batches an epoch, and the fourth is skipped."""
    found = schedule(1000, batch_size=256, epochs=100, **REFERENCE)
    assert (found.batch_size, found.steps, found.skipped) == (256, 3, 232)
    shares = rates(found, 100)
    assert len(shares) == 300
    assert shares[150] == pytest.approx(0.677, abs=5e-4)
    assert shares.mean() == pytest.approx(0.576, abs=5e-4)
    assert shares[-1] == pytest.approx(0.128, abs=5e-4)
    t = np.arange(300)
    by_hand = np.minimum(1, (t + 1) / 39) * (1 + np.cos(np.pi * t / 390)) / 2
    np.testing.assert_allclose(shares, by_hand, rtol=1e-12)


def test_where_nothing_is_skipped():
    reference = rates(schedule(5888, batch_size=256, epochs=120, **REFERENCE), 120)
    usual = rates(schedule(5888, batch_size=256, epochs=120, lr=1.0), 120)
    half = 60 * 23
    assert reference[half] == pytest.approx(0.500, abs=5e-4)
    assert reference.mean() == pytest.approx(0.451, abs=5e-4)
    assert usual[half] == pytest.approx(0.587, abs=5e-4)
    assert usual.mean() == pytest.approx(0.501, abs=1e-3)


def test_fewer_images_than_a_batch_are_one_batch():
    found = schedule(200, batch_size=256, epochs=10, **REFERENCE)
    assert (found.batch_size, found.samples, found.steps, found.skipped) == (200, 200, 1, 0)
    for_three = schedule(200, 3, batch_size=258, epochs=10, **REFERENCE)
    assert (for_three.batch_size, for_three.skipped) == (198, 2), "equal shares"
    with pytest.raises(UserError, match=r"--placement\.trainers 4 is more than"):
        schedule(3, 4, batch_size=8, **REFERENCE)


@pytest.mark.parametrize("protocol", ["validation", "reference"])
def test_long_tails(protocol):
    """1,242 images of CUB at factor 100: the rate is constant within an epoch of ten batches."""
    found = schedule(1242, protocol=protocol, **LONG_TAIL)
    assert (found.steps, found.samples, found.skipped) == (10, 1242, 0)
    by_epoch = rates(found, 200).reshape(200, 10)
    expected = np.ones(200)
    expected[:5] = np.arange(1, 6) / 5
    expected[160:180], expected[180:] = 0.01, 0.0001
    np.testing.assert_allclose(by_epoch, expected[:, None] * np.ones(10), rtol=1e-12)
    assert all(found.validates(epoch) for epoch in range(200))


def test_a_short_last_batch_has_equal_shares():
    assert schedule(1242, 4, **LONG_TAIL).samples == 1244


def test_when_the_classifier_is_validated():
    usual = schedule(8, batch_size=8, epochs=10)
    assert [epoch for epoch in range(10) if usual.validates(epoch)] == list(range(10))
    rare = schedule(8, batch_size=8, epochs=10, eval_every=4)
    assert [epoch for epoch in range(10) if rare.validates(epoch)] == [3, 7, 9]
    reference = schedule(8, batch_size=8, epochs=10, **REFERENCE)
    assert [epoch for epoch in range(10) if reference.validates(epoch)] == [0, 4, 8]
    assert validated_every(TrainConfig(protocol="reference", eval_every=3)) == 3


def test_a_rate_per_epoch_follows_the_cosine_between_epochs():
    """The schedule of `CosineAnnealingLR` that is stepped once an epoch."""
    options = {**REFERENCE, "warmup_fraction": 0.0, "lr_per": "epoch"}
    found = rates(schedule(16, batch_size=8, epochs=4, **options), 4)
    expected = [(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4) for _ in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
