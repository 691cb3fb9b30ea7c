"""95 % intervals, against scipy's own."""

import pytest
from scipy import stats

from diffmix.report.intervals import of_mean, of_share


def test_the_mean_of_a_few_runs():
    mean, half = of_mean([66.0, 67.5, 71.0])
    low, high = stats.t.interval(0.95, 2, 68.16666666666667, stats.sem([66.0, 67.5, 71.0]))
    assert (mean - half, mean + half) == pytest.approx((low, high))


@pytest.mark.parametrize(("right", "images"), [(0, 10), (7, 10), (873, 1200), (10, 10)])
def test_a_share_of_a_test_set(right, images):
    wilson = stats.binomtest(right, images).proportion_ci(0.95, "wilson")
    low, high = of_share(right / images, images)
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
