"""What is done about mixers that are gone or on nodes that go, and what is said. The pools are
stand-ins. Real ones: tests/engine/placement/test_actor_pool.py, tests/faults/test_cluster.py.
"""

from types import SimpleNamespace

import pytest
import ray

from engine.nodes import hand_over
from engine.nodes.hand_over import HandOver
from engine.placement.ray_internals import PoolActor
from engine.telemetry import Reporter


class Kept(Reporter):
    def __init__(self):
        self.events = []

    def record(self, kind, **values):
        self.events.append((kind, values.get("text")))


class Pool:
    """Each of its actors has three tasks."""

    def __init__(self, *actors):
        self.there, self.reporter, self.given = list(actors), Kept(), 0
        self.context = SimpleNamespace(get_config=lambda name: self.reporter)

    def actors(self):
        return list(self.there)

    def take_back(self, actor):
        self.there.remove(actor)
        return 3

    def submit_waiting(self):
        self.given += 1


@pytest.fixture
def world(monkeypatch):
    """The clock's `now`, and the nodes that are `going`."""
    world = SimpleNamespace(now=1000.0, going={})
    clock = SimpleNamespace(time=lambda: world.now, monotonic=lambda: world.now)
    monkeypatch.setattr(hand_over, "time", clock)
    monkeypatch.setattr(hand_over, "draining_nodes", lambda: world.going)
    nodes = [{"NodeID": name, "NodeManagerAddress": f"10.0.0.{name}"} for name in "12"]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    return world


def started(pool: Pool) -> HandOver:
    found = HandOver()
    found.start([pool])
    return found


def test_a_dead_mixers_tasks_go_to_others_and_its_death_is_known_before(world):
    pool = Pool(PoolActor("a", None, "1", True), PoolActor("b", None, "2", False))
    callback = started(pool)
    for _ in range(3):
        callback.step()
    assert [actor.name for actor in pool.there] == ["b"]
    assert pool.reporter.events == [
        ("mixer_lost", None),
        ("note", "a mixer on 10.0.0.1 is dead; its 3 tasks go to other mixers"),
    ]
    assert pool.given == 3


def test_a_death_is_known_once_where_a_task_has_given_a_part_of_its_output(world):
    """Ray starts such an actor again. It may die again."""
    pool = Pool(PoolActor("a", None, "1", True))
    pool.take_back = lambda actor: 0
    callback = started(pool)
    for is_gone in (True, True, False, True):
        pool.there = [PoolActor("a", None, "1", is_gone)]
        callback.step()
    assert (
        pool.reporter.events
        == [
            ("mixer_lost", None),
            ("note", "a mixer on 10.0.0.1 is dead"),
        ]
        * 2
    )


def test_a_nodes_end_is_said_once(world):
    pool = Pool(
        *(PoolActor(name, None, "1", False) for name in "ab"), PoolActor("c", None, "2", False)
    )
    callback = started(pool)
    callback.step()
    assert pool.reporter.events == []
    world.going, world.now = {"1": 1030.0}, 1002.0
    callback.step()
    assert [actor.name for actor in pool.there] == ["c"]
    assert pool.reporter.events == [
        (
            "note",
            "node 10.0.0.1 is going away in 28 s: its 2 mixers finish their chunks and take no "
            "more; its 6 tasks go to other mixers",
        )
    ]
    pool.there.append(PoolActor("d", None, "1", False))  # had begun to start there
    pool.take_back = lambda actor: pool.there.remove(actor) or 0
    callback.step()
    assert len(pool.reporter.events) == 1
    world.going = {"1": 1030.0, "2": None}
    world.now += 2
    pool.take_back = lambda actor: pool.there.remove(actor) or 1
    callback.step()
    assert pool.reporter.events[1][1] == (
        "node 10.0.0.2 is going away: its mixer finishes its chunk and takes no more; its 1 task "
        "goes to other mixers"
    )


def test_the_cluster_is_asked_once_a_second(world, monkeypatch):
    asked = []
    monkeypatch.setattr(hand_over, "draining_nodes", lambda: asked.append(1) or {})
    callback = started(Pool())
    for _ in range(10):
        callback.step()
        world.now += 0.25
    assert len(asked) == 3
