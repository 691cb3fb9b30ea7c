"""When the notice that a train worker's node is going away makes a checkpoint due. With real
workers and a node that goes: tests/faults/test_notices.py.
"""

from types import SimpleNamespace

import pytest
import ray
import ray.train

from engine.nodes import hand_over, notice
from engine.nodes.notice import LAST_SECONDS, Notice
from engine.telemetry import Reporter


class Kept(Reporter):
    def __init__(self):
        self.texts = []

    def send(self, kind, **values):
        assert kind == "note"
        self.texts.append(values["text"])


class World:
    """The clocks, and what Ray Train says."""

    def __init__(self):
        self.now, self.info = 1000.0, None

    def going(self, seconds: float | None, **nodes: list[int]) -> None:
        moment = None if seconds is None else int(1000 * (self.now + seconds))
        self.info = ray.train.PreemptionInfo(moment, nodes)


@pytest.fixture
def world(monkeypatch):
    world = World()
    clock = SimpleNamespace(time=lambda: world.now, monotonic=lambda: world.now)
    monkeypatch.setattr(notice, "time", clock)
    monkeypatch.setattr(hand_over, "time", clock)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: world.info)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "a", "NodeManagerAddress": "10.0.0.7"}])
    return world


def follow(world: World, seen: Notice, seconds: int, took: float = 0.0) -> list[float]:
    """The moments at which a checkpoint is due, of a loop that makes a step a second."""
    found = []
    for _ in range(seconds):
        world.now += 1
        seen.look()
        if seen.is_due():
            found.append(world.now)
            world.now += took
            seen.kept()
    return found


def test_a_checkpoint_at_once_and_one_shortly_before_the_end(world):
    reporter = Kept()
    seen = Notice(reporter, 0)
    assert follow(world, seen, 10) == []
    world.going(60, a=[0])
    assert follow(world, seen, 70) == [1011, 1070 - LAST_SECONDS]
    assert reporter.texts == [
        "node 10.0.0.7 is going away in 59 s: training has kept a checkpoint and goes on until then"
    ]


def test_a_slow_checkpoint_begins_earlier(world):
    world.going(100, a=[0])
    first, last = follow(world, Notice(Kept(), 0), 110, took=8)
    assert (first, last) == (1001, 1100 - LAST_SECONDS - 16)


def test_a_short_notice_is_one_checkpoint(world):
    world.going(LAST_SECONDS - 1, a=[0])
    assert len(follow(world, Notice(Kept(), 0), 30)) == 1


def test_without_a_deadline_there_is_one_checkpoint(world):
    world.going(None, a=[0])
    reporter = Kept()
    assert len(follow(world, Notice(reporter, 0), 100)) == 1
    assert reporter.texts[0].startswith("node 10.0.0.7 is going away: ")


def test_each_further_node_is_a_notice_of_its_own(world):
    seen = Notice(Kept(), 1)
    world.going(None, a=[0])
    assert len(follow(world, seen, 3)) == 1
    world.going(None, a=[0], b=[1])
    assert len(follow(world, seen, 3)) == 1


def test_only_rank_0_speaks(world):
    reporter = Kept()
    world.going(None, a=[0])
    follow(world, Notice(reporter, 1), 3)
    assert reporter.texts == []
