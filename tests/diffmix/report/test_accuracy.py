"""Charts of accuracy show the figures, and are None if there is nothing to show."""

import json

import numpy as np
import pytest
from scipy import stats

from diffmix.report.accuracy import (
    class_accuracy,
    confusion_matrix,
    group_accuracy,
    per_seed,
    reliability,
)


def values(chart) -> list[dict]:
    return chart.spec["data"]["values"]


def test_nothing_to_show_is_none():
    assert class_accuracy({}, {}, []) is None
    assert group_accuracy({"per_class": {"0": 1.0}}, {}) is None
    assert confusion_matrix(None, []) is None
    assert reliability({"top1": 0.5}, {"calibration": {"ece": 0.0}}) is None
    assert per_seed({}) is None


def test_gains_are_sorted_and_names_spoken():
    after = {"per_class": {"0": 0.5, "1": 1.0, "2": 0.25}}
    before = {"per_class": {"0": 0.5, "1": 0.25, "2": 0.5}}
    chart = class_accuracy(after, before, ["001.Red_Fox", "Füchslein 狐", "lynx"])
    rows = [(row["class"], row["gain"]) for row in values(chart)]
    assert rows == [("Füchslein 狐", 75.0), ("Red Fox", 0.0), ("lynx", -25.0)]
    assert chart.table.rows[0] == ["Füchslein 狐", 100.0, 25.0, 75.0]
    assert chart.described == "1 of 3 classes gained."


def test_of_many_classes_those_at_both_ends_are_drawn_and_all_are_in_the_table():
    names = [f"class {i}" for i in range(100)]
    before = {"per_class": {str(i): 0.5 for i in range(100)}}
    after = {"per_class": {str(i): i / 99 for i in range(100)}}
    chart = class_accuracy(after, before, names)
    drawn = [row["class"] for row in values(chart)]
    assert drawn == [f"class {i}" for i in (*range(99, 79, -1), *range(19, -1, -1))]
    assert len(chart.table.rows) == 100
    assert "Of 100 classes, the 20 at each end." in chart.text


def test_without_a_baseline_there_are_accuracies():
    chart = class_accuracy({"per_class": {"0": 0.25, "1": 0.5}}, {}, ["a", "b"])
    assert [(row["class"], row["with"]) for row in values(chart)] == [("b", 50.0), ("a", 25.0)]
    assert chart.title == "Accuracy by class"


def test_names_in_an_axis_are_a_literal_of_vega():
    names = ['a "b"', "'); alert(1); ('", "</script>", "狐"]
    share = {"per_class": {str(i): 0.5 for i in range(4)}}
    axis = class_accuracy(share, share, names).spec["encoding"]["y"]["axis"]
    literal, _, rest = axis["labelExpr"].rpartition("]")[0].rpartition("[datum.value")
    assert rest == ""
    assert sorted(json.loads(literal)) == sorted(names)


def test_groups_have_a_bar_for_each_arm():
    chart = group_accuracy({"per_group": {"water": 0.5, "land": 1.0}}, {})
    rows = [(row["group"], row["accuracy"], row["arm"]) for row in values(chart)]
    assert rows == [("land", 100.0, "with mixes"), ("water", 50.0, "with mixes")]
    assert chart.described == "Lowest: water with mixes, 50.0 %."


def test_confusions_are_shares_of_their_class_the_most_frequent_first():
    chart = confusion_matrix([[2, 1, 1], [0, 0, 0], [3, 0, 5]], ["001.Red_Fox", "狐", "lynx"])
    rows = [(row["i"], row["j"], row["images"], row["share"]) for row in values(chart)]
    assert rows[:3] == [(2, 0, 3, 37.5), (0, 1, 1, 25.0), (0, 2, 1, 25.0)]
    assert set(rows[3:]) == {(0, 0, 2, 50.0), (2, 2, 5, 62.5)}
    # The page finds a row's cell by its place.
    assert [row[2] for row in chart.table.rows] == [3, 1, 1]
    assert chart.described.startswith("Most often taken: lynx for Red Fox (3), ")
    assert confusion_matrix([[2, 0], [0, 2]], ["a", "b"]).described == "No image was wrong."


def test_reliability_has_a_curve_for_each_arm():
    bins = [
        {"confidence": 0.4, "accuracy": 0.5, "images": 3},
        {"confidence": 0.9, "accuracy": 0.75, "images": 1},
    ]
    chart = reliability({"calibration": {"ece": 0.125, "bins": bins}}, {})
    assert chart.table.rows == [["with mixes", 40.0, 50.0], ["with mixes", 90.0, 75.0]]
    assert chart.described == "Calibration error (ECE): with mixes 12.5 %."


def test_seeds_have_the_interval_of_their_mean_and_of_their_paired_gain():
    accuracy, baseline = [0.70, 0.74, 0.72], [0.66, 0.67, 0.65]
    seeds = {
        str(seed): {"accuracy": with_, "baseline": without}
        for seed, (with_, without) in enumerate(zip(accuracy, baseline, strict=True))
    }
    chart = per_seed(seeds)
    rule = chart.spec["layer"][0]["data"]["values"]
    bounds = [(row["arm"], row["low"], row["high"]) for row in rule]
    for (_, low, high), shares in zip(bounds, (baseline, accuracy), strict=True):
        sample = 100 * np.array(shares)
        expected = stats.t.interval(0.95, 2, sample.mean(), stats.sem(sample))
        assert (low, high) == pytest.approx(expected)
    gains = 100 * (np.array(accuracy) - np.array(baseline))
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    assert f"gain, paired by seed, +6.0 points ({low:+.1f} to {high:+.1f})" in chart.described
    assert len(chart.table.rows) == 6
    assert per_seed({"0": {"accuracy": 0.5}}).spec["layer"][0]["data"]["values"] == []
