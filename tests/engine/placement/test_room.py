"""Clusters that are too small, on nodes that are described and not started. test_run.py and
test_two_nodes.py (tests/e2e) ask real clusters.
"""

import pytest

from diffmix.config import Config, PlacementConfig, RunConfig
from diffmix.errors import UserError
from engine.placement import cluster, room
from engine.placement.capacity import Capacity, Node
from engine.placement.room import check_room, wait_for_room


def nodes(*sizes: tuple[float, str | None], cpus: float = 64.0, grows: bool = False) -> Capacity:
    """`nodes((GPUs, label or None), ...)`: nodes of that many GPUs, which share the CPUs."""
    found = []
    for gpus, label in sizes:
        labels = {"ray-subcluster": label} if label else {}
        resources = {"GPU": gpus, "CPU": cpus / len(sizes)}
        found.append(Node(resources=resources, labels=labels))
    return Capacity(nodes=found, grows=grows)


def config(mode: str = "overlapped", **placement) -> Config:
    return Config(run=RunConfig(mode=mode), placement=PlacementConfig(**placement))


BOTH = {"mixes": True, "trains": True}


def test_what_fits_is_not_refused():
    has = nodes((2.0, None), (2.0, None))
    check_room(config(mixers=(3,)), has, **BOTH)
    check_room(config("staged", mixers=(4,), trainers=4), has, **BOTH)
    check_room(config(mixers=(4, 9)), has, mixes=True)
    check_room(config(mixers=(9,), trainers=4, personalizers=9), has, trains=True)
    check_room(config(gpus_per_mixer=0.1, mixers=(30,)), has, **BOTH)  # sums of floats


def test_gpus_that_are_missing_are_named():
    has = nodes((4.0, None))
    with pytest.raises(
        UserError, match=r"6 GPUs \(4 for 4 mixers, 2 for 2 train .* has 4; .*staged"
    ):
        check_room(config(mixers=(4,), trainers=2), has, **BOTH)
    with pytest.raises(UserError, match="5 GPUs") as refused:
        check_room(config("staged", mixers=(5,)), has, **BOTH)
    assert "--run.mode staged" not in str(refused.value)


def test_cpus_count_too():
    has = nodes((4.0, None), cpus=2.0)
    with pytest.raises(UserError, match=r"needs 3 CPUs .* has 2"):
        check_room(config(), has, **BOTH)
    with pytest.raises(UserError, match="personalizers 3 needs 3 CPUs"):
        check_room(config(personalizers=3), has, personalizes=True)


def test_personalizers_count_alone():
    has = nodes((4.0, None))
    check_room(config(personalizers=4), has, personalizes=True)
    with pytest.raises(UserError, match="personalizers 9 needs 9 GPUs but the cluster has 4"):
        check_room(config(personalizers=9), has, personalizes=True)


def test_labels_and_the_option_belong_together():
    has = nodes((4.0, "gen"), (1.0, "train"))
    check_room(config(separate=True, mixers=(4,)), has, **BOTH)
    with pytest.raises(UserError, match="2 GPUs on nodes labeled ray-subcluster=train, but 1 such"):
        check_room(config(separate=True, trainers=2), has, **BOTH)
    with pytest.raises(UserError, match=r"set --placement\.separate True"):
        check_room(config(), has, **BOTH)


def test_a_growing_cluster_counts_at_its_most():
    has = nodes((4.0, None), grows=True)
    check_room(config(mixers=(3,)), has, **BOTH)
    with pytest.raises(UserError, match=r"6 GPUs .* but the cluster may grow to 4"):
        check_room(config(mixers=(4,), trainers=2), has, **BOTH)
    has = nodes((1.0, "gen"), (1.0, "train"), grows=True)
    with pytest.raises(UserError, match=r"labeled ray-subcluster=gen, but the cluster may grow to"):
        check_room(config(separate=True, mixers=(2,), gpus_per_trainer=0.0), has, **BOTH)


def test_mixers_leave_a_cpu_of_their_nodes_to_the_readers():
    has = nodes((1.0, "gen"), (1.0, "gen"), (1.0, "train"), cpus=12.0)
    check_room(config(separate=True, mixers=(2,), cpus_per_mixer=3), has, **BOTH)
    with pytest.raises(UserError, match=r"cpus_per_mixer 4 leaves no CPU .* largest .* 4 CPUs"):
        check_room(config(separate=True, mixers=(2,), cpus_per_mixer=4), has, mixes=True)
    with pytest.raises(UserError, match=r"room for 0 mixers of 1 GPUs and 5 CPUs, but 2"):
        check_room(config(separate=True, mixers=(2,), cpus_per_mixer=5), has, mixes=True)


class Joining:
    """A cluster of fixed size that has one GPU more at each look."""

    def __init__(self, monkeypatch, grows: bool = False):
        self.gpus, self.now, self.grows = 0.0, 0.0, grows
        monkeypatch.setattr(room, "capacity", self.look)
        monkeypatch.setattr(room.time, "monotonic", lambda: self.now)

    def look(self, placement) -> Capacity:
        self.gpus += 1
        return nodes((self.gpus, None), grows=self.grows)

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_nodes_that_are_added_by_hand_are_waited_for_and_it_is_said_once(monkeypatch, capsys):
    cluster = Joining(monkeypatch)
    has = wait_for_room(config(mixers=(4,), wait_minutes=1), pause=cluster.pause, **BOTH)
    assert has.total("GPU") == 5
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("waiting up to 1 minutes for nodes: The job needs 5 GPUs")


def test_a_wait_has_an_end(monkeypatch):
    cluster = Joining(monkeypatch)
    with pytest.raises(UserError, match="50 GPUs"):
        wait_for_room(config(mixers=(49,), wait_minutes=1), pause=cluster.pause, **BOTH)
    assert 60 <= cluster.now <= 62


@pytest.mark.parametrize("grows", [False, True])
def test_without_minutes_to_wait_or_on_a_cluster_that_is_at_its_most_it_is_refused(
    monkeypatch, grows
):
    cluster = Joining(monkeypatch, grows)
    minutes = 5 if grows else None
    with pytest.raises(UserError, match="5 GPUs"):
        wait_for_room(config(mixers=(4,), wait_minutes=minutes), pause=cluster.pause, **BOTH)
    assert cluster.now == 0


def test_train_workers_do_not_share_a_gpu(monkeypatch):
    has = nodes((4.0, None))
    shared = config(gpus_per_trainer=0.5, trainers=2)
    monkeypatch.setattr(cluster, "has_accelerators", lambda: False)
    check_room(shared, has, **BOTH)  # logical GPUs are only numbers
    monkeypatch.setattr(cluster, "has_accelerators", lambda: True)
    with pytest.raises(UserError, match=r"gpus_per_trainer is 0\.5 with 2 workers"):
        check_room(shared, has, **BOTH)
    with pytest.raises(UserError, match=r"gpus_per_trainer is 0\.5 with 3 workers"):
        check_room(config(gpus_per_trainer=0.5, personalizers=3), has, personalizes=True, **BOTH)
    check_room(shared, has, mixes=True)
    check_room(config(gpus_per_trainer=0.5), has, **BOTH)
    check_room(config(gpus_per_mixer=0.5, mixers=(4,)), has, **BOTH)
