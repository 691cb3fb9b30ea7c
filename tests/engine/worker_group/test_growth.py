"""When an elastic worker group stops to go on with more workers."""

from types import SimpleNamespace

import pytest
import ray.train

from diffmix.config import PlacementConfig
from engine.worker_group import growth
from engine.worker_group.elastic import Elastic
from engine.worker_group.growth import FIRST_STEPS, REGROUP, Growth, Regroup


class World:
    """One worker whose steps take a second, on a cluster with room for `room`."""

    def __init__(self, monkeypatch):
        self.now, self.room = 100.0, 3
        self.arrivals = SimpleNamespace(began=80.0, waited=6.0, streams=False, streamed=0)
        context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
        monkeypatch.setattr(ray.train, "get_context", lambda: context)
        monkeypatch.setattr(growth, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(growth, "get_current_placement_group", lambda: None)
        monkeypatch.setattr(growth, "places", lambda group: {})
        monkeypatch.setattr(growth, "room", lambda placement, own: self.room)

    def steps(self, left: int, trainers: int = 1, count: int = FIRST_STEPS) -> Growth:
        """After `count` steps, with `left` steps to come."""
        elastic = Elastic(
            placement=PlacementConfig(trainers=trainers, elastic=True),
            possible=(1, 2, 3, 6),
            wait_seconds=0.0,
            sure=2.0,
            reporter=None,
        )
        made = Growth(elastic, self.arrivals, device=None)
        for _ in range(count):
            self.now += 1.0
            self.due = made.due(left)
        return made


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_the_rest_has_to_be_twice_as_long_as_a_restart(world):
    # The first step ended 21 s after the beginning, 6 of them a wait that will not come again, and
    # Ray takes 10 s: 25 s. Three workers save 2/3 of the rest.
    for left, workers in ((74, None), (76, 3)):
        world.now = 100.0
        found = world.steps(left)
        assert found.shown.get(REGROUP) == workers
        assert world.due == (workers is not None)


def test_only_possible_numbers_and_never_fewer(world):
    world.room = 5
    assert world.steps(1000).shown == {REGROUP: 3}
    world.room = 1
    assert world.steps(1000).shown == {}


def test_mixers_keep_their_room_while_mixes_stream_in(world):
    world.arrivals.streams = True
    assert world.steps(1000, trainers=1).shown == {}
    # A node has come back: the mixers' restart and the wait for mixes count too, 31 s in all.
    for left, shown in ((122, {}), (126, {REGROUP: 2})):
        world.now = 100.0
        assert world.steps(left, trainers=2).shown == shown


def test_it_looks_again_after_some_seconds(world):
    world.room = 1
    found = world.steps(1000)
    world.room = 3
    looks = []
    for _ in range(6):
        world.now += 1.0
        looks.append(found.due(1000))
    assert looks == [False] * 4 + [True, False]


def test_workers_leave_when_the_checkpoint_is_kept(world):
    found = world.steps(0)
    found.leave()
    with pytest.raises(Regroup):
        world.steps(1000).leave()


def test_the_rest_of_a_long_stream_is_left_to_mixers_on_all_gpus(world):
    found, taken = world.steps(0), []
    world.arrivals.finish = lambda: taken.append(world.arrivals.streamed)
    found.finish_stream(1000, 100)  # the stream has ended
    world.arrivals.streams, world.arrivals.first_streamed = True, 88.0
    # 10 mixes in 20 s with one mixer; with two the rest takes half. A start takes 8 + 10 s.
    world.arrivals.streamed = 10
    found.finish_stream(45, 10)
    found.finish_stream(47, 10)
    assert taken == [0, 10]


def test_without_the_option_nothing_is_looked_for(world):
    found = Growth(None, world.arrivals, device=None)
    assert not any(found.due(1000) for _ in range(50))
