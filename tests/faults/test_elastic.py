"""`placement.elastic` on a cluster of four nodes: more workers when the stream has ended, fewer
after the loss of a node. The loss goes on as with one worker.
"""

from statistics import mean

import pytest
import ray
from ray.cluster_utils import Cluster
from safetensors.torch import load_file
from torch import allclose

from engine.run import run
from engine.worker_group import elastic

pytestmark = pytest.mark.slow

COMMON = {"num_cpus": 3, "object_store_memory": 200_000_000}
EPOCHS = 40


@pytest.fixture(scope="module")
def nodes(own_clusters):
    """A head without GPUs and three nodes with one GPU each, by their ids."""
    with own_clusters():
        cluster = Cluster()
        cluster.add_node(num_gpus=0, include_dashboard=False, **COMMON)
        found = [cluster.add_node(num_gpus=1, **COMMON) for _ in range(3)]
        ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
        cluster.wait_for_nodes()
        yield cluster, {node.node_id: node for node in found}
    ray.shutdown()
    cluster.shutdown()


def epochs(happened: list[dict]) -> dict[int, dict[int, float]]:
    """Epoch -> rank -> mean loss. Of an epoch that was trained again the last group counts. Ranks'
    events come in any order.
    """
    found: dict[int, dict[int, float]] = {}
    group, groups = 0, {}
    for event in happened:
        group += event["event"] == "resize"
        if event["event"] == "train":
            ranks = found.setdefault(event["epoch"], {})
            if groups.get(event["epoch"]) != group:
                ranks.clear()
            groups[event["epoch"]] = group
            ranks[event["rank"]] = event["loss"]
    return found


def resizes(happened: list[dict]) -> list[tuple[int, int]]:
    return [(event["before"], event["workers"]) for event in happened if event["event"] == "resize"]


def test_one_worker_then_three_then_two(nodes, tmp_path, small_config, when, events, monkeypatch):
    cluster, by_id = nodes
    changes = {
        "mix.synthetic_p": 1e-9,  # which mixes are drawn depends on when they come
        "train.model_name": "test_efficientnet_gn",  # batch norm's statistics are of a share
        "train.resolution": 224,
        "train.resize": 224,
        "train.batch_size": 6,
        "train.epochs": EPOCHS,
        "train.eval_every": EPOCHS,
        "train.checkpoint_minutes": 0.1,
        "train.lr": 0.002,
        "placement.cpus_per_mixer": 0.5,
        "placement.cpus_per_trainer": 0.5,
        "placement.mixers": (2,),
    }
    fixed, out = tmp_path / "fixed", tmp_path / "out"
    run(small_config(fixed, **changes))
    monkeypatch.setattr(elastic, "SURE", 0.0)

    def seen(change: tuple[int, int]) -> bool:
        happened = events(out)
        place = resizes(happened)
        if change not in place:
            return False
        workers = place[-1][1]
        since = [event for event in happened if event["event"] in ("resize", "train")]
        last = max(i for i, event in enumerate(since) if event["event"] == "resize")
        ranks = {event["rank"] for event in since[last + 1 :]}
        return ranks == set(range(workers))

    def kill() -> None:
        node = [event["node"] for event in events(out) if event["event"] == "train"][-1]
        cluster.remove_node(by_id[node], allow_graceful=False)

    when(lambda: seen((1, 3)), kill)
    run(small_config(out, **changes, **{"placement.elastic": True}))

    happened = events(out)
    assert resizes(happened) == [(1, 3), (3, 2)]
    notes = [event["text"] for event in happened if event["event"] == "note"]
    assert "training goes on with 3 workers instead of 1" in notes
    usual, found = epochs(events(fixed)), epochs(happened)
    assert usual.keys() == found.keys() == set(range(EPOCHS))
    changed = 0
    for epoch, ranks in found.items():
        # Where the number changed within an epoch, the ranks' means weigh differently.
        if mean(ranks.values()) != pytest.approx(usual[epoch][0], rel=1e-4):
            changed += 1
    assert changed <= 2
    one, other = (load_file(folder / "classifier/model.safetensors") for folder in (out, fixed))
    assert all(allclose(one[name], other[name], atol=1e-5) for name in one)
