"""Charts show what events say, and are None if there is nothing to show."""

import pytest

from diffmix.report.timeline import mixes_over_time, timeline, training_curves


def epoch(kind: str, number: int, loss: float, start: float, rank: int = 0, pool: int = 0) -> dict:
    times = {"time": start + 1, "start": start, "end": start + 1}
    return {"event": kind, **times, "rank": rank, "epoch": number, "pool": pool, "loss": loss}


def mix(start: float, actor: str = "a") -> dict:
    times = {"time": start + 2, "start": start, "end": start + 2}
    return {"event": "mix", **times, "actor": actor, "mixes": 16, "chunk": 0}


def values(chart) -> list[dict]:
    return chart.spec["data"]["values"]


def curves(events: list[dict]) -> dict[str, list[tuple]]:
    return {
        chart.key: [(row["epoch"], row["y"], row["arm"]) for row in values(chart)]
        for chart in training_curves(events)
    }


def test_nothing_to_show_is_none():
    assert training_curves([]) == []
    assert timeline([{"event": "start", "time": 5.0}]) is None
    assert mixes_over_time([epoch("train", 0, 1.0, 0.0)]) is None


def test_losses_are_the_mean_over_ranks_and_of_the_last_attempt():
    events = [
        epoch("train", 0, 9.0, 0),
        epoch("train", 0, 2.0, 5),
        epoch("train", 0, 4.0, 5, rank=1),
        epoch("train", 1, 1.0, 6),
    ]
    assert curves(events) == {"loss": [(1, 3.0, "with mixes"), (2, 1.0, "with mixes")]}


def test_validation_accuracy_is_a_chart_of_its_own():
    measured = {"event": "validation", "phase": "baseline", "time": 2.0, "epoch": 0, "top1": 0.25}
    found = curves([epoch("baseline", 0, 1.0, 0), measured])
    assert found["validation"] == [(1, 25.0, "without mixes")]


def test_the_timeline_leaves_out_the_time_between_attempts():
    events = [
        {"event": "start", "time": 100.0},
        mix(101.0),
        {"event": "start", "time": 9000.0},
        mix(9001.0, "b"),
        epoch("train", 0, 1.0, 9002.0, rank=0, pool=20),
        epoch("train", 0, 1.0, 9003.0, rank=1, pool=12),
    ]
    rows = [(row["who"], row["start"], row["end"]) for row in values(timeline(events))]
    assert rows == [("mixer 1", 1, 3), ("mixer 2", 4, 6), ("training with mixes", 5, 7)]
    points = [(row["s"], row["mixes"]) for row in values(mixes_over_time(events))]
    assert points == [(0, 0), (3, 16), (6, 32), (6, 20), (7, 32)]


def test_waits_are_a_lane_with_what_was_waited_for():
    events = [
        {"event": "start", "time": 0.0},
        {"event": "waiting", "time": 1.0, "text": "waiting for 2 nodes (0 of 2)"},
        {"event": "waiting", "time": 4.0, "text": "waiting for 2 nodes (1 of 2)"},
        {"event": "waiting", "time": 6.0, "text": ""},
        mix(7.0),
        {"event": "waiting", "time": 9.0, "text": "waiting for mixers"},
        {"event": "gpus", "time": 12.0},
    ]
    rows = [row for row in values(timeline(events)) if row["who"] == "waiting"]
    assert [(row["start"], row["end"]) for row in rows] == [(1, 4), (4, 6), (9, 12)]
    assert rows[1]["what"] == "waiting for 2 nodes (1 of 2)"


def test_many_mixers_share_one_lane_and_many_chunks_are_drawn_as_few():
    chart = timeline([mix(1.0, f"actor {i}") for i in range(40)])
    assert {row["who"] for row in values(chart)} == {"mixing"}
    events = [mix(2.001 * i) for i in range(5000)]
    assert len(values(timeline(events))) == 1
    assert len(values(mixes_over_time(events))) == 400
    assert values(mixes_over_time(events))[-1]["mixes"] == 16 * 5000


def test_what_a_chart_shows_is_said_in_words():
    assert timeline([mix(0.0), mix(5.0)]).described == "Busy: mixing 4 s."
    assert mixes_over_time([mix(0.0), mix(8.0)]).described == "32 mixes, 4 a second."
    (loss,) = training_curves([epoch("train", 1, 0.5, 0)])
    assert loss.described == "with mixes 0.5 after epoch 2."


@pytest.mark.parametrize("make", [timeline, mixes_over_time])
def test_tables_have_what_is_drawn(make):
    chart = make([mix(0.0), mix(50.0)])
    assert len(chart.table.rows) == len(values(chart))
