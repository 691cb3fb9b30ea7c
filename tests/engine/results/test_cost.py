"""What phases cost: node-hours that were measured, shared out by the GPUs that phases held."""

import pytest

from engine.results.cost import IDLE, cost

PRICES = {"gen": 0.5, "train": 2.0, "other": 0.1}


def phase(name: str, begin: float, end: float, workers: int) -> list[dict]:
    values = {"event": "phase", "phase": name}
    return [
        {**values, "time": begin, "state": "begin", "workers": workers, "gpus": workers},
        {**values, "time": end, "state": "end"},
    ]


def spent(hour: float, **node_hours: float) -> dict:
    return {"event": "spent", "time": 3600.0 * hour, "node_hours": node_hours}


def mixer(actor: str, begin: float, end: float) -> list[dict]:
    return [{"event": "mix", "actor": actor, "start": begin, "end": end, "time": end}]


@pytest.fixture
def events() -> list[dict]:
    """An hour in which nothing ran; an hour of mixing on 2 GPUs beside training on 1; an hour of
    training alone; an attempt later, a quarter of an hour of training.
    """
    mixing = phase("mix", 3600, 7200, 2)[:1] + mixer("a", 3600, 7200) + mixer("b", 3600, 7200)
    return [
        spent(0),
        spent(1, other=1.0),
        *mixing,
        *phase("train", 3600, 10800, 1),
        spent(2, other=2.0, gen=2.0, train=1.0),
        spent(3, other=3.0, gen=3.0, train=2.0),
        {"event": "start", "time": 100000.0},
        spent(30, other=3.0, gen=3.0, train=2.0),
        *phase("train", 108000, 108900, 1),
        spent(30.25, other=3.25, gen=3.0, train=2.25),
    ]


def test_nodes_of_their_own_are_of_their_own_phase(events):
    """By hand. The head: idle .1, then 2/3 and 1/3, then training. One mixing node stays an hour
    after the last mix.
    """
    found = cost(events, PRICES, separate=True)
    assert found == {
        "mix": pytest.approx(2 * 0.5 + 0.1 * 2 / 3),
        "train": pytest.approx(2.25 * 2.0 + 0.1 / 3 + 0.125),
        IDLE: pytest.approx(0.1 + 0.5),
    }
    whole = 3.25 * 0.1 + 3.0 * 0.5 + 2.25 * 2.0
    assert sum(found.values()) == pytest.approx(whole)


def test_shared_nodes_are_shared_by_gpus(events):
    found = cost(events, PRICES, separate=False)
    first = 2 * 0.5 + 2.0 + 0.1
    assert found["mix"] == pytest.approx(first * 2 / 3)
    assert found["train"] == pytest.approx(first / 3 + (0.5 + 2.0 + 0.1) + 0.25 * 2.1)
    assert found[IDLE] == pytest.approx(0.1)


def test_what_was_spent_before_the_first_measurement_that_is_known_is_not_lost():
    found = cost([spent(5, gen=4.0), spent(6, gen=5.0)], PRICES, separate=True)
    assert found == {IDLE: pytest.approx(2.5)}


def test_nothing_is_said_where_nothing_was_measured(events):
    assert cost(events, {}, separate=True) is None
    assert cost([event for event in events if event["event"] != "spent"], PRICES, True) is None
    older = {"event": "spent", "time": 1.0, "hours": 1.0, "gpu_hours": 1.0, "usd": 1.0}
    assert cost([older], PRICES, separate=True) is None
