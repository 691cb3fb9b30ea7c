"""A cluster of two nodes that share nothing but a bucket: data, base model and run folder are in
it, and each node has a disk of its own.
"""

import os
from pathlib import Path

import boto3
import pytest
import ray
from ray.cluster_utils import Cluster

from engine.run import run

pytestmark = pytest.mark.slow


@pytest.fixture
def disks(own_clusters, bucket_server, bucket_settings, tmp_path, monkeypatch):
    """The folders that the node of train workers and the command, and the node of mixers, keep
    their copies in.
    """
    folders = {name: tmp_path / f"disk of {name}" for name in ("train", "gen")}
    common = {"num_cpus": 6, "object_store_memory": 200_000_000}
    with own_clusters():
        cluster = Cluster()
        for name, gpus in (("train", 1), ("gen", 2)):
            settings = {**bucket_settings, "DIFFMIX_CACHE": str(folders[name])}
            extra = {} if cluster.head_node else {"include_dashboard": False}
            cluster.add_node(
                num_gpus=gpus,
                labels={"ray-subcluster": name},
                env_vars=settings,
                **extra,
                **common,
            )
    monkeypatch.setenv("DIFFMIX_CACHE", str(folders["train"]))
    ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
    cluster.wait_for_nodes()
    yield folders
    ray.shutdown()
    cluster.shutdown()


def upload(folder: Path, prefix: str) -> dict[str, int]:
    """Key -> size of what a local folder becomes in the bucket."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder)}"
            boto3.client("s3").put_object(Bucket="mixes", Key=key, Body=path.read_bytes())
            sizes[key] = path.stat().st_size
    return sizes


def read_of(bucket_server, key: str) -> int:
    """Bytes of an object that were read, all readers together."""
    from urllib.parse import quote

    return sum(bucket_server.bytes_of(quote(f"/mixes/{key}")))


def test_data_base_and_run_folder_in_a_bucket(
    disks, bucket_server, small_config, tiny_base, photos
):
    images = upload(photos, "data/photos")
    base = upload(tiny_base, "models/tiny")
    bucket_server.log.clear()
    config = small_config(
        "s3://mixes/runs/alone",
        **{
            "data.train": "s3://mixes/data/photos",
            "model.base": "s3://mixes/models/tiny",
            "mix.strategy": "diff-mix",
            "mix.count": 24,
            "placement.separate": True,
            "placement.mixers": (2,),
        },
    )
    summary = run(config)
    assert summary["plan"] == {"planned": 24, "stored": 24, "rejected": 0, "set_aside": 0}
    assert "top1" in summary["accuracy"]
    assert {key: read_of(bucket_server, key) for key in images} == images
    twice = {key: 2 * size for key, size in base.items()}
    assert {key: read_of(bucket_server, key) for key in base} == twice, "once a node"
    head = boto3.client("s3").head_object(Bucket="mixes", Key="runs/alone/data/train.arrow")
    sets = [path for path in disks["gen"].rglob("*") if path.is_file()]
    assert head["ContentLength"] not in {path.stat().st_size for path in sets}
    for folder in disks.values():
        assert os.listdir(folder)
        assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    again = run(config)
    assert again["plan"] == summary["plan"]
    assert {key: read_of(bucket_server, key) for key in base} == twice
