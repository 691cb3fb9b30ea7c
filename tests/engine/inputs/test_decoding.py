import numpy as np
import pytest

from diffmix.config import Config, DataConfig, RunConfig
from diffmix.datasets.prepare import prepare
from diffmix.datasets.raw import Found
from engine.inputs import decoding
from engine.inputs.decoding import DecodeOnCluster


def test_few_images_are_decoded_here(photos, tmp_path):
    """The test would fail if Ray was started."""
    config = Config(run=RunConfig(address="auto"))
    prepared = prepare(DataConfig(train=str(photos)), str(tmp_path), DecodeOnCluster(config))
    assert len(prepared.train) + len(prepared.val) + len(prepared.test) == 32


def test_without_a_cluster_images_are_decoded_here(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "FEW", 3)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    prepared = prepare(DataConfig(train=str(photos)), str(tmp_path), DecodeOnCluster(Config()))
    assert len(prepared.train) + len(prepared.val) + len(prepared.test) == 32


@pytest.fixture
def with_broken(photos, tmp_path):
    """The photos and two that cannot be read."""
    import shutil

    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "green" / "broken.png").write_bytes(b"no image")
    (folder / "green" / "dangling.png").symlink_to("nowhere")
    return folder


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_many_images_are_decoded_by_tasks(
    cluster, bucket_server, with_broken, tmp_path, monkeypatch, place
):
    """The driver would fail to decode."""
    local = prepare(DataConfig(train=str(with_broken)), str(tmp_path / "here"))
    train = str(with_broken)
    if place == "bucket":
        import boto3

        for path in with_broken.rglob("*.png"):
            if path.exists():
                key = f"many/{path.relative_to(with_broken)}"
                boto3.client("s3").put_object(Bucket="mixes", Key=key, Body=path.read_bytes())
        train = "s3://mixes/many"
    monkeypatch.setattr(decoding, "FEW", 3)
    monkeypatch.setattr(decoding, "_BATCH", 5)
    monkeypatch.setattr(decoding, "in_threads", None)
    decode = DecodeOnCluster(Config())
    there = prepare(DataConfig(train=train), str(tmp_path / "there"), decode)
    for name in ("train", "val", "test"):
        one, other = getattr(local, name), getattr(there, name)
        assert one.fingerprint == other.fingerprint
        assert np.array_equal(one.labels, other.labels)


def test_batches_are_bounded_by_number_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_BATCH", 3)
    monkeypatch.setattr(decoding, "_BATCH_BYTES", 100)
    (tmp_path / "large").write_bytes(bytes(150))
    images = [bytes(10)] * 4 + [bytes(60)] * 2 + [str(tmp_path / "large"), "missing", None]
    found = [Found(f"{i}", image, 0) for i, image in enumerate(images)]
    sizes = [len(batch) for batch in decoding._batches(iter(found))]
    assert sizes == [3, 3, 1, 2]
    assert [one for batch in decoding._batches(iter(found)) for one in batch] == found
