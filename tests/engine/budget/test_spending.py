import pytest

from engine.budget.spending import Meter, Sight, Spent, spent_before


def test_what_was_seen_counts_until_the_next_look():
    """By hand: an hour of 2 mixing nodes and a head, then half an hour of a train node."""
    meter = Meter({"gen": 0.5, "train": 2.0, "other": 0.1}, Spent(hours=1.0, gpu_hours=8.0, usd=3))
    meter.add(Sight(time=100.0, gpus=4.0, nodes={"gen": 2, "other": 1}))
    assert meter.spent == Spent(hours=1.0, gpu_hours=8.0, usd=3)
    meter.add(Sight(time=3700.0, gpus=1.0, nodes={"train": 1}))
    up = {"gen": 2.0, "other": 1.0}
    assert meter.spent == Spent(
        hours=2.0, gpu_hours=12.0, usd=pytest.approx(3 + 1.1), node_hours=up
    )
    meter.add(Sight(time=5500.0, gpus=0.0, nodes={}))
    up["train"] = 0.5
    assert meter.spent == Spent(
        hours=2.5, gpu_hours=12.5, usd=pytest.approx(3 + 1.1 + 1.0), node_hours=up
    )


def test_a_node_without_a_price_costs_nothing():
    assert Meter({"gen": 0.5}, Spent()).rate({"gen": 3, "other": 1}) == 1.5


def test_an_attempt_begins_with_what_those_before_it_spent():
    events = [
        {"event": "spent", "hours": 1.0, "gpu_hours": 2.0, "usd": 3.0},
        {"event": "mix"},
        {"event": "spent", "hours": 2.0, "gpu_hours": 4.0, "usd": 6.0, "node_hours": {"gen": 1.0}},
        {"event": "start"},
    ]
    gen = {"gen": 1.0}
    assert spent_before(events) == Spent(hours=2.0, gpu_hours=4.0, usd=6.0, node_hours=gen)
    assert spent_before(events[:2]) == Spent(hours=1.0, gpu_hours=2.0, usd=3.0)
    assert spent_before([]) == Spent()
