"""Clusters that are too small, on nodes that are described and not started. test_run.py and
test_two_nodes.py (tests/e2e) ask real clusters.
"""

import pytest

from diffmix.config import Config, PlacementConfig, RunConfig
from diffmix.errors import UserError
from engine.placement import cluster, room
from engine.placement.room import check_room


@pytest.fixture
def nodes(monkeypatch):
    """`nodes((GPUs, label or None), ...)` describes a cluster of 64 CPUs."""

    def describe(*sizes: tuple[float, str | None], cpus: float = 64.0) -> None:
        found = []
        for gpus, label in sizes:
            labels = {"ray-subcluster": label} if label else {}
            found.append({"Alive": True, "Labels": labels, "Resources": {"GPU": gpus}})
        total = {"GPU": sum(gpus for gpus, _ in sizes), "CPU": cpus}
        monkeypatch.setattr(room, "resources", lambda: total)
        monkeypatch.setattr(room.ray, "nodes", lambda: found)

    return describe


def config(mode: str = "overlapped", **placement) -> Config:
    return Config(run=RunConfig(mode=mode), placement=PlacementConfig(**placement))


BOTH = {"mixes": True, "trains": True}


def test_what_fits_is_not_refused(nodes):
    nodes((2.0, None), (2.0, None))
    check_room(config(mixers=(3,)), **BOTH)
    check_room(config("staged", mixers=(4,), trainers=4), **BOTH)
    check_room(config(mixers=(4, 9)), mixes=True)
    check_room(config(mixers=(9,), trainers=4, personalizers=9), trains=True)
    check_room(config(gpus_per_mixer=0.1, mixers=(30,)), **BOTH)  # sums of floats


def test_gpus_that_are_missing_are_named(nodes):
    nodes((4.0, None))
    with pytest.raises(
        UserError, match=r"6 GPUs \(4 for 4 mixers, 2 for 2 train .* has 4; .*staged"
    ):
        check_room(config(mixers=(4,), trainers=2), **BOTH)
    with pytest.raises(UserError, match="5 GPUs") as refused:
        check_room(config("staged", mixers=(5,)), **BOTH)
    assert "--run.mode staged" not in str(refused.value)


def test_cpus_count_too(nodes):
    nodes((4.0, None), cpus=2.0)
    with pytest.raises(UserError, match=r"needs 3 CPUs .* has 2"):
        check_room(config(), **BOTH)
    with pytest.raises(UserError, match="personalizers 3 needs 3 CPUs"):
        check_room(config(personalizers=3), personalizes=True)


def test_personalizers_count_alone(nodes):
    nodes((4.0, None))
    check_room(config(personalizers=4), personalizes=True)
    with pytest.raises(UserError, match="personalizers 9 needs 9 GPUs but the cluster has 4"):
        check_room(config(personalizers=9), personalizes=True)


def test_labels_and_the_option_belong_together(nodes):
    nodes((4.0, "gen"), (1.0, "train"))
    check_room(config(separate=True, mixers=(4,)), **BOTH)
    with pytest.raises(UserError, match="2 GPUs on nodes labeled ray-subcluster=train, but 1 such"):
        check_room(config(separate=True, trainers=2), **BOTH)
    with pytest.raises(UserError, match=r"set --placement\.separate True"):
        check_room(config(), **BOTH)


def test_train_workers_do_not_share_a_gpu(nodes, monkeypatch):
    nodes((4.0, None))
    shared = config(gpus_per_trainer=0.5, trainers=2)
    monkeypatch.setattr(cluster, "has_accelerators", lambda: False)
    check_room(shared, **BOTH)  # logical GPUs are only numbers
    monkeypatch.setattr(cluster, "has_accelerators", lambda: True)
    with pytest.raises(UserError, match=r"gpus_per_trainer is 0\.5 with 2 workers"):
        check_room(shared, **BOTH)
    with pytest.raises(UserError, match=r"gpus_per_trainer is 0\.5 with 3 workers"):
        check_room(config(gpus_per_trainer=0.5, personalizers=3), personalizes=True, **BOTH)
    check_room(shared, mixes=True)
    check_room(config(gpus_per_trainer=0.5), **BOTH)
    check_room(config(gpus_per_mixer=0.5, mixers=(4,)), **BOTH)
