import numpy as np
import pytest

from diffmix.classifier.target_draw import TargetDraw, inverse_weights


def test_classes_are_drawn_by_weight_and_then_mixes_alike():
    sizes = np.array([29, 4, 1])
    targets = np.array([0] * 50 + [1] * 40 + [2] * 2)
    draw = TargetDraw(inverse_weights(sizes), lambda start: targets[start:])
    random = np.random.default_rng(0)
    found = np.array([draw(*random.random(2)) for _ in range(20_000)])
    shares = np.bincount(targets[found]) / len(found)
    expected = 1 / (sizes + 1)
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.012)
    of_one = np.bincount(found, minlength=92)[50:90]
    assert of_one.min() > 0.6 * of_one.mean()
    assert np.bincount(found, minlength=92)[90:].min() > 0.9 * np.bincount(found)[90:].mean()


def test_a_growing_pool():
    """A class counts from its first mix on, and new mixes of a known class are drawn too."""
    arrived = [2, 2]
    draw = TargetDraw(np.array([1.0, 1.0, 2.0]), lambda start: np.array(arrived[start:], int))
    assert {draw(a, b) for a in (0.0, 0.999) for b in (0.0, 0.999)} == {0, 1}
    arrived += [2, 0]
    assert draw(0.32, 0.5) == 3, "class 0 has a third of the weight that is there"
    assert draw(0.34, 0.0) == 0
    assert draw(0.999, 0.999) == 2


@pytest.mark.parametrize("share", [0.0, 1 - 1e-16, float(np.nextafter(1, 0))])
def test_the_last_class_takes_what_rounding_leaves(share):
    draw = TargetDraw(np.full(3, 0.1), lambda start: np.array([0, 1, 2])[start:])
    assert draw(share, share) in (0, 1, 2)
