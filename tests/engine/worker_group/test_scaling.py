"""What the controller of an elastic worker group decides; test_attempt.py (training) and
test_elastic.py (faults) let a real one do it.
"""

from types import SimpleNamespace

import pytest
import ray.train

from diffmix.config import PlacementConfig
from engine.worker_group import scaling
from engine.worker_group.elastic import Elastic
from engine.worker_group.growth import REGROUP
from engine.worker_group.scaling import ElasticPolicy


class Sent:
    def __init__(self):
        self.events = []

    def send(self, kind, **values):
        self.events.append((kind, *values.values()))


@pytest.fixture
def cluster_of(monkeypatch):
    """What the policy sees: `room`, and a clock that goes on when the policy sleeps."""
    seen = SimpleNamespace(room=3, now=0.0)

    def sleep(seconds: float) -> None:
        seen.now += seconds

    clock = SimpleNamespace(monotonic=lambda: seen.now, sleep=sleep)
    monkeypatch.setattr(scaling, "time", clock)
    monkeypatch.setattr(scaling, "room", lambda placement, own: seen.room)
    monkeypatch.setattr(scaling, "places", lambda group: {})
    monkeypatch.setattr(ElasticPolicy, "_maybe_send_resource_request", lambda policy: None)
    return seen


def policy(wait_seconds=0.0, trainers=3):
    elastic = Elastic(
        placement=PlacementConfig(trainers=trainers, elastic=True),
        possible=(1, 2, 3, 6),
        wait_seconds=wait_seconds,
        sure=2.0,
        reporter=Sent(),
    )
    return ElasticPolicy(ray.train.ScalingConfig(num_workers=trainers), elastic), elastic.reporter


def runs(policy, workers, **reports):
    """A look at a running group; `reports` are the metrics of its ranks."""
    handle = SimpleNamespace(placement_group="group")
    state = SimpleNamespace(placement_group_handle=handle, num_workers=workers)
    statuses = {}
    for rank in range(workers):
        metrics = reports.get(f"rank{rank}")
        report = None if metrics is None else SimpleNamespace(metrics=metrics)
        statuses[rank] = SimpleNamespace(training_report=report)
    return policy.make_decision_for_running_worker_group(
        state, SimpleNamespace(worker_statuses=statuses)
    )


def size(decision) -> int | None:
    return getattr(decision, "num_workers", None)


def test_the_first_start_waits_for_the_usual_number(cluster_of):
    cluster_of.room = 0
    assert size(policy()[0].make_decision_for_non_running_worker_group()) == 3


def test_a_group_is_replaced_when_all_its_workers_have_kept_their_part(cluster_of):
    mine, sent = policy(trainers=2)
    mine.make_decision_for_non_running_worker_group()
    assert size(runs(mine, 2, rank0={"epoch": 1}, rank1={"epoch": 1})) is None
    assert size(runs(mine, 2, rank0={REGROUP: 6})) is None
    assert size(runs(mine, 2, rank1={REGROUP: 6})) == 6
    assert sent.events == [
        ("resize", "train", 6, 2),
        ("note", "training goes on with 6 workers instead of 2"),
    ]
    assert size(runs(mine, 6)) is None


def test_a_killed_worker_changes_nothing(cluster_of):
    mine, sent = policy()
    mine.make_decision_for_non_running_worker_group()
    runs(mine, 3)
    assert size(mine.make_decision_for_non_running_worker_group()) == 3
    assert sent.events == []


def test_a_fixed_cluster_goes_on_at_once_with_what_is_left(cluster_of):
    mine, _ = policy(trainers=6)
    mine.make_decision_for_non_running_worker_group()
    runs(mine, 6)
    cluster_of.room = 5
    assert size(mine.make_decision_for_non_running_worker_group()) == 3
    assert mine._get_num_workers_for_resource_request() == 6  # what brings the node back


def test_a_growing_cluster_is_waited_for(cluster_of):
    mine, sent = policy(wait_seconds=5.0)
    mine.make_decision_for_non_running_worker_group()
    runs(mine, 3)
    cluster_of.room = 2
    found = [size(mine.make_decision_for_non_running_worker_group()) for _ in range(6)]
    assert found == [None] * 5 + [2]
    runs(mine, 2)
    cluster_of.room = 0  # nothing fits: it waits as long as it takes
    found = [size(mine.make_decision_for_non_running_worker_group()) for _ in range(20)]
    assert found == [None] * 20
    cluster_of.room = 2
    assert size(mine.make_decision_for_non_running_worker_group()) == 2
    assert [event[0] for event in sent.events] == ["resize", "note"]
