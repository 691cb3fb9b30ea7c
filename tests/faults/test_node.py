"""A mixer's node dies in the middle of the stream: the others make every mix."""

import threading
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from engine.run import run, run_mixing


@pytest.fixture(scope="module")
def nodes(own_clusters):
    """A head for training and two nodes for mixers, of 1 logical GPU each; the second mixer's node
    may be killed.
    """
    common = {"num_gpus": 1, "num_cpus": 4, "object_store_memory": 200_000_000}
    with own_clusters():
        cluster = Cluster()
        cluster.add_node(labels={"ray-subcluster": "train"}, include_dashboard=False, **common)
        mixers = [cluster.add_node(labels={"ray-subcluster": "gen"}, **common) for _ in range(2)]
    ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster, mixers
    ray.shutdown()
    cluster.shutdown()


def parts(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / "mixes").glob("part-*.parquet"))}


def test_a_mixer_node_dies_and_every_mix_is_made(nodes, tmp_path, small_config):
    cluster, mixers = nodes
    changes = {
        "placement.separate": True,
        "placement.mixers": (2,),
        "mix.count": 160,
        "train.epochs": 6,
        "run.train_after": 0.2,
    }
    out = tmp_path / "out"
    done = threading.Event()
    # Inode of each part that is there. A part that is written again gets another inode.
    kept: dict[str, int] = {}

    def kill() -> None:
        while len(parts(out)) < 5:
            if done.wait(0.1):
                return
        cluster.remove_node(mixers[1], allow_graceful=False)
        kept.update({file.name: file.stat().st_ino for file in (out / "mixes").glob("part-*")})

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary = run(small_config(out, **changes))
    finally:
        done.set()
        killer.join()
    assert kept
    assert all((out / "mixes" / name).stat().st_ino == inode for name, inode in kept.items()), (
        "a stored part was made again"
    )
    assert summary["plan"] == {"planned": 160, "stored": 160, "rejected": 0, "set_aside": 0}
    # The bytes are those of a run without a failure.
    other = tmp_path / "other"
    run_mixing(small_config(other, **{**changes, "placement.mixers": (1,)}))
    assert parts(other) == parts(out)
