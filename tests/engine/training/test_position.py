"""Where an epoch goes on, and when that is kept."""

from types import SimpleNamespace

import pytest
import torch

from engine.training import position
from engine.training.position import CheckpointClock, Position, Resumed, Seen, random_state


def test_a_position_is_read_as_it_was_written(tmp_path):
    torch.manual_seed(5)
    seen = Seen()
    for loss in (0.1, 0.7, 1.3):
        seen.add(8, 2, torch.tensor(loss))
    Position(4, 3, seen, random_state()).save(str(tmp_path), 1)
    wanted = torch.rand(3)
    found = Position.load(str(tmp_path), 1, 2, {"epoch": 4, "step": 3})
    assert (found.epoch, found.step, found.seen.images, found.seen.synthetic) == (4, 3, 24, 6)
    assert torch.equal(found.seen.loss, seen.loss)
    found.restore_random()
    assert torch.equal(torch.rand(3), wanted)


def test_a_rank_that_the_checkpoint_does_not_know_has_seen_nothing(tmp_path):
    Position(2, 1, Seen(images=9), random_state()).save(str(tmp_path), 0)
    found = Position.load(str(tmp_path), 1, 2, {"epoch": 2, "step": 1})
    assert (found.epoch, found.step, found.seen.images, found.random) == (2, 1, 0, {})


def test_what_more_ranks_have_seen_is_shared_out(tmp_path):
    for rank in range(3):
        seen = Seen(images=10**rank, wait=rank / 4, loss=torch.tensor(rank / 2), steps=rank)
        Position(2, 1, seen, random_state()).save(str(tmp_path), rank)
    place = {"epoch": 2, "step": 1}
    first, second = (Position.load(str(tmp_path), rank, 2, place).seen for rank in range(2))
    assert (first.images, first.wait, float(first.loss), first.steps) == (101, 0.5, 1.0, 2)
    assert (second.images, second.wait, float(second.loss), second.steps) == (10, 0.25, 0.5, 1)


def test_a_resumed_sampler_leaves_out_what_was_drawn():
    sampler = Resumed(range(10))
    assert (list(sampler), len(sampler)) == (list(range(10)), 10)
    sampler.skip = 7
    assert (list(sampler), len(sampler)) == ([7, 8, 9], 3)


@pytest.fixture
def clock(monkeypatch):
    time = SimpleNamespace(now=100.0)
    time.monotonic = lambda: time.now
    monkeypatch.setattr(position, "time", time)
    return time


def test_a_checkpoint_is_due_after_so_many_minutes(clock):
    due = CheckpointClock(2, 1, torch.device("cpu"))
    found = []
    for _ in range(10):
        clock.now += 30
        found.append(due.due())
        if found[-1]:
            due.kept()
    assert found == [False, False, False, True] * 2 + [False] * 2
    never = CheckpointClock(0, 1, torch.device("cpu"))
    clock.now += 1e9
    assert not never.due()


class Ranks:
    """Two ranks in one process, of which rank 0 broadcasts."""

    def __init__(self, monkeypatch):
        self.said: list[float] = []
        self._speaks = True
        monkeypatch.setattr(position.dist, "broadcast", self._broadcast)

    def _broadcast(self, tensor, rank):
        if self._speaks:
            self.said.append(float(tensor))
        else:
            tensor.fill_(self.said[-1])

    def due(self, first, second) -> bool:
        """What both say, one after the other."""
        self._speaks = True
        found = first.due()
        self._speaks = False
        assert second.due() == found
        return found


def test_ranks_with_different_clocks_keep_the_same_steps(clock, monkeypatch):
    """Rank 0's clock counts, and it is asked at few steps."""
    ranks = Ranks(monkeypatch)
    first = CheckpointClock(1, 2, torch.device("cpu"))
    clock.now += 5  # the second rank started later
    second = CheckpointClock(1, 2, torch.device("cpu"))
    kept = 0
    for _ in range(200):
        clock.now += 1
        due = ranks.due(first, second)
        if due:
            kept += 1
            first.kept()
            second.kept()
    assert kept == 3
    assert len(ranks.said) < 3 * 8


class FakeNotice:
    """Is due from the moment `at` on, once."""

    def __init__(self, clock, at):
        self.clock, self.at, self.looks = clock, at, 0

    def look(self):
        self.looks += 1

    def is_due(self):
        return self.at is not None and self.clock.now >= self.at

    def kept(self):
        if self.is_due():
            self.at = None


@pytest.mark.parametrize("minutes", [0, 60])
def test_one_ranks_notice_makes_a_checkpoint_due_on_all(clock, monkeypatch, minutes):
    """Ranks ask equally often, and not at each of their steps."""
    ranks = Ranks(monkeypatch)
    notices = [FakeNotice(clock, 150.0), FakeNotice(clock, None)]
    clocks = [CheckpointClock(minutes, 2, torch.device("cpu"), notice) for notice in notices]
    kept = []
    for step in range(1000):
        clock.now += 0.1
        due = ranks.due(*clocks)
        if due:
            kept.append(step)
            for each in clocks:
                each.kept()
    (step,) = kept
    assert 0 <= step - 500 <= 10 * position.LOOK_SECONDS
    assert notices[0].looks == notices[1].looks <= 1000 / (10 * position.LOOK_SECONDS) + 3


def test_a_single_rank_asks_every_two_seconds(clock):
    notice = FakeNotice(clock, 150.0)
    one = CheckpointClock(0, 1, torch.device("cpu"), notice)
    due = []
    for step in range(1000):
        clock.now += 0.1
        if one.due():
            due.append(step)
            one.kept()
    assert len(due) == 1
    assert abs(due[0] - 500) <= 1
    assert notice.looks <= 100 / position.LOOK_SECONDS
