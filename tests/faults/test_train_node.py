"""The node of the train worker dies in the middle of training; another one takes its place."""

import pytest
import ray
from ray.cluster_utils import Cluster
from safetensors.torch import load_file
from torch import equal

from engine.run import run, run_training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def train_nodes(own_clusters):
    """A head without GPUs, a node for mixers and two for training, by their ids."""
    common = {"num_cpus": 4, "object_store_memory": 200_000_000}
    with own_clusters():
        cluster = Cluster()
        cluster.add_node(num_gpus=0, include_dashboard=False, **common)
        cluster.add_node(num_gpus=1, labels={"ray-subcluster": "gen"}, **common)
        train = [
            cluster.add_node(num_gpus=1, labels={"ray-subcluster": "train"}, **common)
            for _ in range(2)
        ]
        ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
        cluster.wait_for_nodes()
        yield cluster, {node.node_id: node for node in train}
    ray.shutdown()
    cluster.shutdown()


def test_training_goes_on_on_another_node(
    train_nodes, tmp_path, small_config, when, record, events, untrained
):
    cluster, nodes = train_nodes
    changes = {
        "placement.separate": True,
        "mix.count": 64,
        "run.mode": "staged",
        "train.epochs": 8,
        "train.eval_every": 8,
        "train.checkpoint_minutes": 1e-9,
    }
    whole = tmp_path / "whole"
    run(small_config(whole, **changes))
    out = untrained(whole, tmp_path / "out")

    def epochs(folder):
        return [event for event in events(folder) if event["event"] == "train"]

    def kill() -> None:
        cluster.remove_node(nodes[epochs(out)[-1]["node"]], allow_graceful=False)

    killed = when(lambda: len(epochs(out)) >= 3, kill)
    run_training(small_config(out, **changes))
    assert record("the train node dies (staged)", out, killed.moment)["lost"] == 0
    assert len({event["node"] for event in epochs(out)}) == 2
    one, other = (load_file(folder / "classifier/model.safetensors") for folder in (out, whole))
    assert all(equal(one[name], other[name]) for name in one)
