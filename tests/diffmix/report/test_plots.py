"""Plots show what events and figures say, and are None if there is nothing to show."""

import numpy as np

from diffmix.report import plots


def epoch(kind: str, number: int, loss: float, start: float, rank: int = 0, pool: int = 0) -> dict:
    return {
        "event": kind,
        "time": start + 1,
        "start": start,
        "end": start + 1,
        "rank": rank,
        "epoch": number,
        "pool": pool,
        "images": 8,
        "synthetic": 2,
        "wait": 0.1,
        "loss": loss,
    }


def mix(start: float, actor: str = "a") -> dict:
    return {
        "event": "mix",
        "time": start + 2,
        "actor": actor,
        "start": start,
        "end": start + 2,
        "mixes": 16,
        "chunk": 0,
    }


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_nothing_to_show_is_none():
    assert plots.training_curves([]) is None
    assert plots.timeline([{"event": "start", "time": 5.0}]) is None
    assert plots.class_accuracy({}, {}, []) is None
    assert plots.group_accuracy({"per_class": {"0": 1.0}}, {}) is None


def test_losses_are_the_mean_over_ranks_and_of_the_last_attempt():
    events = [
        epoch("train", 0, 9.0, 0),
        epoch("train", 0, 2.0, 5),
        epoch("train", 0, 4.0, 5, rank=1),
        epoch("train", 1, 1.0, 6),
    ]
    (axes,) = plots.training_curves(events).axes
    np.testing.assert_allclose(lines(axes)["with mixes"], [[1, 3.0], [2, 1.0]])


def test_validation_accuracy_gets_a_panel_of_its_own():
    events = [
        epoch("train", 0, 1.0, 0),
        {"event": "validation", "phase": "train", "time": 2.0, "epoch": 0, "top1": 0.25},
    ]
    _, axes = plots.training_curves(events).axes
    np.testing.assert_allclose(lines(axes)["with mixes"], [[1, 25.0]])


def test_timeline_counts_mixes_and_leaves_out_the_time_between_attempts():
    events = [
        {"event": "start", "time": 100.0},
        mix(101.0),
        {"event": "start", "time": 9000.0},
        mix(9001.0, "b"),
        epoch("train", 0, 1.0, 9002.0, rank=0, pool=20),
        epoch("train", 0, 1.0, 9003.0, rank=1, pool=12),
    ]
    top, bottom = plots.timeline(events).axes
    assert [label.get_text() for label in top.get_yticklabels()] == [
        "mixer 1",
        "mixer 2",
        "training with mixes",
    ]
    np.testing.assert_allclose(lines(bottom)["made"], [[0, 0], [3, 16], [6, 32]])
    np.testing.assert_allclose(lines(bottom)["available to training"], [[6, 20], [7, 32]])


def test_many_mixers_share_one_lane():
    top = plots.timeline([mix(1.0, f"actor {i}") for i in range(40)]).axes[0]
    assert [label.get_text() for label in top.get_yticklabels()] == ["mixing"]


def test_class_accuracy_compares_arms_and_speaks_names():
    figure = plots.class_accuracy(
        {"per_class": {"0": 1.0, "1": 0.5}},
        {"per_class": {"0": 0.5, "1": 0.5}},
        ["001.Red_Fox", "Füchslein 狐"],
    )
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Red Fox", "Füchslein 狐"]
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert widths == [[50, 50], [100, 50]]


def test_of_many_classes_those_that_changed_most_are_shown():
    names = [f"class {i}" for i in range(100)]
    before = {str(i): 0.5 for i in range(100)}
    after = {str(i): i / 99 for i in range(100)}
    (axes,) = plots.class_accuracy({"per_class": after}, {"per_class": before}, names).axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [f"class {i}" for i in (*range(99, 79, -1), *range(19, -1, -1))]


def test_group_accuracy_works_with_one_arm():
    (axes,) = plots.group_accuracy({"per_group": {"water": 0.5, "land": 1.0}}, {}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["land", "water"]
    assert len(axes.containers) == 1


def test_svg_keeps_text_and_is_reproducible():
    def make():
        return plots.svg(plots.group_accuracy({"per_group": {"Füchslein 狐": 0.5}}, {}))

    assert "Füchslein 狐" in make().decode()
    assert make() == make()


def test_confusion_is_shown_as_shares_of_each_class():
    figure = plots.confusion_matrix([[3, 1], [0, 0]], ["001.Red_Fox", "狐"])
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.get_images()[0].get_array(), [[75, 25], [0, 0]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Red Fox", "狐"]
    many = plots.confusion_matrix(np.eye(60, dtype=int).tolist(), [f"class {i}" for i in range(60)])
    assert "class 3" not in [label.get_text() for label in many.axes[0].get_yticklabels()]
    assert plots.confusion_matrix(None, []) is None


def test_reliability_has_a_curve_for_each_arm():
    calibration = {
        "ece": 0.125,
        "bins": [
            {"confidence": 0.4, "accuracy": 0.5, "images": 3},
            {"confidence": 0.9, "accuracy": 0.75, "images": 1},
        ],
    }
    (axes,) = plots.reliability({"calibration": calibration}, {}).axes
    np.testing.assert_allclose(lines(axes)["with mixes (ECE 12.5 %)"], [[40, 50], [90, 75]])
    assert plots.reliability({"top1": 0.5}, {"calibration": {"ece": 0.0}}) is None
