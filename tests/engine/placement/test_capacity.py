"""What a cluster may grow to, from descriptions of nodes and of Ray's cluster files."""

import math

import pytest

from diffmix.config import PlacementConfig
from engine.placement import capacity as capacity_module
from engine.placement.capacity import Node, capacity

FILE = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "train": {
            "resources": {"CPU": 4, "GPU": 2},
            "labels": {"ray-subcluster": "train"},
            "max_workers": 2,
        },
        "gen": {"resources": {"CPU": 8, "GPU": 1}, "labels": {"ray-subcluster": "gen"}},
    },
}


@pytest.fixture
def described(monkeypatch):
    """`described(file, node, ...)`: live nodes, and the file that the autoscaler works with."""

    def describe(file: dict | Exception | None, *nodes: dict) -> None:
        def ask():
            if isinstance(file, Exception):
                raise file
            return file

        monkeypatch.setattr(capacity_module, "autoscaler_config", ask)
        monkeypatch.setattr(capacity_module.ray, "nodes", lambda: list(nodes))

    return describe


def node(labels=(), alive=True, **resources) -> dict:
    return {"Alive": alive, "Labels": dict(labels), "Resources": resources}


HEAD = node(CPU=0.0)


def test_a_cluster_that_does_not_grow_is_what_is_there(described):
    described(None, HEAD, node(GPU=2.0, CPU=4.0), node(GPU=8.0, alive=False))
    found = capacity(PlacementConfig())
    assert (found.grows, found.total("GPU"), found.total("CPU")) == (False, 2.0, 4.0)


def test_groups_count_at_their_most(described):
    described(FILE, HEAD)
    found = capacity(PlacementConfig())
    assert found.grows
    # The group gen names no maximum of its own, so the cluster's counts.
    assert (found.total("GPU", "train"), found.total("GPU", "gen")) == (4.0, 5.0)
    assert len(found.labeled("gen")) == 5


def test_nodes_of_a_group_are_not_counted_twice_and_others_beside_it(described):
    mine = {"ray-subcluster": "train"}
    described(
        FILE,
        HEAD,
        node({"ray.io/node-group": "train", **mine}, GPU=2.0),
        node(mine, GPU=3.0),  # joined by hand
    )
    assert capacity(PlacementConfig()).total("GPU", "train") == 7.0


def test_a_given_most_wins_over_the_autoscaler(described):
    described(FILE, HEAD, node({"ray-subcluster": "gen"}, GPU=1.0), node(GPU=1.0))
    found = capacity(PlacementConfig(cluster_max=("gen=8", "train=2")))
    assert found.grows
    assert (found.total("GPU", "gen"), found.total("GPU", "train")) == (8.0, 2.0)
    assert found.total("GPU") == 11.0
    assert math.isinf(found.total("CPU", "gen"))
    anywhere = capacity(PlacementConfig(cluster_max=("any=4",)))
    assert anywhere.total("GPU") == 6.0


def test_an_autoscaler_that_does_not_answer_counts_as_none_and_is_named(described, caplog):
    described(TimeoutError("no answer for 60 s"), node(GPU=2.0))
    found = capacity(PlacementConfig())
    assert (found.grows, found.total("GPU")) == (False, 2.0)
    assert "no answer for 60 s" in caplog.text


@pytest.mark.parametrize(
    ("gpus", "cpus", "room"),
    [(1, 1, 2), (0.5, 1, 4), (1, 4, 1), (0, 2, 2), (3, 1, 0), (0.1, 0, 20)],
)
def test_workers_on_a_node(gpus, cpus, room):
    assert Node(resources={"GPU": 2.0, "CPU": 4.0}, labels={}).fits(gpus, cpus) == room
