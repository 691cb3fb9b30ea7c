"""What a run says of what it waits for. test_growth.py (tests/e2e) waits for real nodes."""

from types import SimpleNamespace

import pytest

from diffmix.config import PlacementConfig
from diffmix.errors import UserError
from engine.nodes import waiting
from engine.nodes.waiting import Wanted, Watch, watching
from engine.placement.capacity import Capacity, Node
from engine.placement.pool import MixerPool


def nodes(label: str | None, *gpus: float) -> list[Node]:
    labels = {"ray-subcluster": label} if label else {}
    return [Node(resources={"GPU": gpu, "CPU": 8.0}, labels=labels) for gpu in gpus]


def there(*found: list[Node]) -> Capacity:
    return Capacity(nodes=[node for part in found for node in part], grows=False)


POOL = MixerPool(least=1, first=8, most=8)
LARGEST = there(nodes("train", 1, 1), nodes("gen", *[1] * 8))
SEPARATE = Wanted(
    placement=PlacementConfig(separate=True, trainers=2, mixers=(1, 8)),
    has=LARGEST,
    workers=2,
    pool=POOL,
)


def test_nodes_that_have_not_come_are_counted():
    assert SEPARATE.text(0, 0, there()) == "waiting for 2 train nodes (0 of 2), mixers 0 of 1..8"
    one = there(nodes("train", 1), nodes("gen", 1))
    assert SEPARATE.text(1, 0, one) == "waiting for 2 train nodes (1 of 2), mixers 0 of 1..8"
    both = there(nodes("train", 1, 1))
    assert SEPARATE.text(2, 0, both) == "waiting for mixers 0 of 1..8"
    assert SEPARATE.text(2, 1, both) == ""


def test_workers_that_start_on_nodes_that_are_there_are_no_wait_unless_it_is_long():
    all_there = there(nodes("train", 1, 1), nodes("gen", 1))
    assert SEPARATE.text(0, 0, all_there) == ""
    slow = SEPARATE.text(1, 0, all_there, slow=True)
    assert slow == "waiting for train workers to start (1 of 2), mixers 0 of 1..8"


def test_a_node_of_several_gpus_holds_several_workers():
    placement = PlacementConfig(separate=True, trainers=4)
    wanted = Wanted(placement=placement, has=there(nodes("train", 4)), workers=4)
    assert wanted.text(0, 0, there()) == "waiting for 1 train node (0 of 1)"


def test_without_labels_gpus_are_counted():
    wanted = Wanted(placement=PlacementConfig(trainers=2), has=there(), workers=2, pool=POOL)
    assert wanted.text(0, 0, there(nodes(None, 1))) == (
        "waiting for 3 GPUs (1 of 3), mixers 0 of 1..8"
    )


class Clock:
    """Stands for the modules `time` and `ray`, and for the run's telemetry."""

    def __init__(self, monkeypatch):
        self.now, self.alive, self.events = 0.0, [], []
        monkeypatch.setattr(waiting, "live", lambda: there(*(nodes(*node) for node in self.alive)))
        monkeypatch.setattr(waiting.time, "monotonic", lambda: self.now)
        ids = lambda: [{"NodeID": f"{i}", "Alive": True} for i in range(len(self.alive))]  # noqa: E731
        monkeypatch.setattr(waiting.ray, "nodes", ids)

    def record(self, kind, **values):
        self.events.append({"event": kind, **values})

    def said(self):
        return [event["text"] for event in self.events if event["event"] == "waiting"]


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_wait_is_said_once_then_each_minute_and_its_end_too(clock):
    watch = Watch(clock, SEPARATE, "train", chunks=2)
    for clock.now in range(0, 70):
        watch.look()
    text = "waiting for 2 train nodes (0 of 2), mixers 0 of 1..8"
    assert clock.said() == [text, text]
    clock.alive = [("train", 1), ("train", 1), ("gen", 1)]
    for rank in range(2):
        clock.record("worker_ready", name="train", rank=rank, node=f"{rank}")
    clock.record("mixer_ready", actor="a", node="2")
    watch.look()
    watch.look()
    assert clock.said() == [text, text, ""]


def test_a_lost_node_is_waited_for_until_every_mix_is_made(clock):
    clock.alive = [("train", 1), ("train", 1), ("gen", 1)]
    watch = Watch(clock, SEPARATE, "train", chunks=1)
    for rank in range(2):
        clock.record("worker_ready", name="train", rank=rank, node=f"{rank}")
    clock.record("worker_ready", name="baseline", rank=0, node="none")  # of another kind
    clock.record("mixer_ready", actor="a", node="2")
    watch.look()
    clock.alive.pop()
    for clock.now in range(1, 9):
        watch.look()
    assert clock.said() == ["waiting for mixers 0 of 1..8"]
    clock.record("mix", chunk=5)
    watch.look()
    assert clock.said() == ["waiting for mixers 0 of 1..8", ""]


def test_a_limit_ends_the_wait_with_a_sentence(clock):
    wanted = Wanted(
        placement=PlacementConfig(separate=True, wait_minutes=2.0), has=LARGEST, workers=1
    )
    watch = Watch(clock, wanted, "train")
    watch.look()
    clock.now = 119.0
    watch.look()
    clock.now = 121.0
    with pytest.raises(UserError, match=r"waiting for 1 train node .* more than 2 minutes"):
        watch.look()


def test_leaving_the_block_raises_what_the_thread_found():
    def look():
        raise UserError("Too long.")

    with (
        pytest.raises(UserError, match="Too long"),
        watching(SimpleNamespace(look=look)) as over,  # type: ignore[arg-type]
    ):
        assert over.wait(30)
