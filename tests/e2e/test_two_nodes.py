"""Two raylets with logical GPUs: mixers on one node, train workers on the other."""

from dataclasses import replace

import pytest
import ray
from ray.cluster_utils import Cluster

from diffmix.config import GateConfig
from diffmix.errors import UserError
from engine.mixing.filter import filter_store
from engine.run import run


@pytest.fixture(scope="module")
def nodes(own_clusters):
    """Node ids of a head with the label `train` and a second node with the label `gen`, of 1
    logical GPU each.
    """
    common = {"num_gpus": 1, "num_cpus": 4, "object_store_memory": 200_000_000}
    with own_clusters():
        cluster = Cluster()
        head = cluster.add_node(
            labels={"ray-subcluster": "train"}, include_dashboard=False, **common
        )
        other = cluster.add_node(labels={"ray-subcluster": "gen"}, **common)
    ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
    cluster.wait_for_nodes()
    yield {"train": head.node_id, "gen": other.node_id}
    ray.shutdown()
    cluster.shutdown()


def test_mixers_and_train_workers_keep_to_their_nodes(
    nodes, tmp_path, small_config, tiny_clip, events
):
    config = small_config(tmp_path / "out", **{"placement.separate": True, "mix.count": 24})
    summary = run(config)
    assert summary["plan"]["stored"] == 24
    for kind, node in (("mixer_ready", "gen"), ("train", "train")):
        assert {event["node"] for event in events(tmp_path / "out", kind)} == {nodes[node]}
    found = filter_store(
        replace(config, gate=GateConfig(clip=str(tiny_clip), threshold=1.0))
    )  # more than a score reaches
    assert (found["scored"], found["rejected"]) == (24, 24)


def test_missing_labels_are_named(nodes, tmp_path, small_config):
    with pytest.raises(
        UserError, match=r"2 GPUs on nodes labeled ray-subcluster=gen, but 1 such nodes have 1"
    ):
        run(
            small_config(
                tmp_path / "out",
                **{
                    "placement.separate": True,
                    "placement.mixers": (2,),
                    "placement.gpus_per_trainer": 0.0,
                },
            )
        )


def test_labeled_nodes_are_no_place_for_a_job_that_mixes_anywhere(nodes, tmp_path, small_config):
    with pytest.raises(UserError, match=r"labeled ray-subcluster.*--placement\.separate True"):
        run(small_config(tmp_path / "out"))
