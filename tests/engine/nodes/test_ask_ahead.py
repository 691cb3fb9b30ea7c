"""When the places of mixers are asked for, and that they are given back, on the shared cluster."""

import pytest
import ray
from ray.util.placement_group import placement_group_table

from diffmix.config import PlacementConfig
from engine.nodes.ask_ahead import AskAhead
from engine.placement.capacity import Capacity, Node

NODES = [Node(resources={"GPU": 4.0, "CPU": 8.0}, labels={})]
GROWING = Capacity(nodes=NODES, grows=True)


def step(done: int, time: float, steps: int = 100) -> dict:
    return {"event": "personalize_step", "step": done, "steps": steps, "time": time}


@pytest.fixture
def asked(monkeypatch):
    """How often places were asked for, without a cluster."""
    found = []
    monkeypatch.setattr(AskAhead, "_ask", lambda self: found.append(1))
    return found


def test_places_are_asked_for_when_the_rate_leaves_that_much_time(asked):
    ahead = AskAhead(PlacementConfig(ask_ahead_minutes=5), GROWING)
    ahead.on_events([step(10, 0.0), step(11, 10.0), step(69, 590.0)])  # 310 s are left
    assert not asked
    ahead.on_events([{"event": "mix"}, step(70, 600.0)])
    assert asked == [1]


def test_a_personalization_that_is_done_at_its_first_event_asks_at_once(asked):
    AskAhead(PlacementConfig(), GROWING).on_events([step(100, 0.0)])
    assert asked == [1]


def test_a_cluster_that_does_not_grow_is_not_asked(asked):
    ahead = AskAhead(PlacementConfig(), Capacity(nodes=NODES, grows=False))
    ahead.on_events([step(100, 0.0)])
    assert not asked


@pytest.mark.usefixtures("cluster")
def test_a_place_holds_what_a_mixer_needs_until_it_is_given_back():
    ahead = AskAhead(PlacementConfig(mixers=(1, 3)), GROWING)
    before = set(placement_group_table())
    ahead.on_events([step(100, 0.0), step(100, 1.0)])
    places = [group for group in placement_group_table() if group not in before]
    assert len(places) == 3
    bundles = [next(iter(placement_group_table()[place]["bundles"].values())) for place in places]
    assert bundles == [{"GPU": 1.0, "CPU": 1.0}] * 3
    ahead.close()
    states = {placement_group_table()[place]["state"] for place in places}
    assert states == {"REMOVED"}
    assert ray.cluster_resources()["GPU"] == 4
