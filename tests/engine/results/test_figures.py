import pytest

from engine.results.figures import figures, overlap, union, wall_seconds


def mix(actor, start, end, mixes=8):
    return {"event": "mix", "time": end, "actor": actor, "start": start, "end": end, "mixes": mixes}


def train(start, end, wait=0.0, images=10, synthetic=1):
    return {
        "event": "train",
        "time": end,
        "start": start,
        "end": end,
        "wait": wait,
        "images": images,
        "synthetic": synthetic,
    }


def test_intervals():
    assert union([(0, 2), (1, 3), (5, 6)]) == [(0, 3), (5, 6)]
    assert union([(0, 2), (3, 4)], gap=1) == [(0, 4)]
    assert overlap([(0, 3), (5, 7)], [(2, 6)]) == 2


def test_fully_overlapped_and_staged():
    together = figures([{"event": "start", "time": 0.0}, mix("m", 10, 20), train(5, 30)])
    assert together["overlap"]["concurrent_fraction"] == 1.0
    assert together["seconds"]["generate"] == 10
    assert together["seconds"]["train"] == 25
    assert together["seconds"]["wall"] == 30
    staged = figures([{"event": "start", "time": 0.0}, mix("m", 0, 20), train(20, 30)])
    assert staged["overlap"]["concurrent_fraction"] == 0.0


def test_half_overlapped():
    assert figures([mix("m", 0, 10), train(5, 15)])["overlap"]["concurrent_fraction"] == 0.5


def test_rates():
    events = [
        mix("a", 0, 4),
        mix("a", 5, 10),
        mix("b", 0, 10),
        train(0, 10, wait=1.0, images=100, synthetic=20),
    ]
    found = figures(events)
    assert found["mixer"]["images_per_second"] == pytest.approx(2.4)
    assert found["mixer"]["busy_fraction"] == pytest.approx(19 / 20)
    assert found["mixer"]["images_per_busy_second"] == pytest.approx(24 / 19)
    assert found["trainer"] == {
        "workers": 1,
        "images_per_second": 10.0,
        "data_wait_fraction": 0.1,
        "synthetic_share": 0.2,
    }


def test_attempts_add_up_without_the_time_between():
    events = [
        {"event": "start", "time": 100.0},
        mix("m", 101, 110),
        {"event": "start", "time": 1000.0},
        mix("n", 1005, 1020),
    ]
    assert wall_seconds(events) == 10 + 20
    assert figures(events)["seconds"]["generate"] == 9 + 15


def test_nothing_happened():
    found = figures([])
    assert found["seconds"]["wall"] == 0
    assert found["overlap"]["concurrent_fraction"] == 0


def test_start_up_counts_from_the_command_of_the_last_attempt_that_came_so_far():
    first = [
        {"event": "start", "time": 100.0, "command": 95.0},
        mix("m", 110, 112),
        mix("m", 103, 105),
        train(106, 120) | {"first_step": 107},
    ]
    second = [{"event": "start", "time": 1000.0, "command": 990.0}, mix("n", 1005, 1020)]
    found = figures([*first, *second])["seconds"]
    assert found["to_first_mix"] == 30  # the second attempt's
    assert found["to_first_step"] == 12  # the second attempt did not train
    assert "to_first_step" not in figures(second)["seconds"]
