import os

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffmix.config import DataConfig
from diffmix.datasets.prepare import prepare
from diffmix.errors import UserError
from diffmix.files.remote_tree import here, origin, read_file, said_of_its_origin

URI = "s3://mixes/photos/Vögel 1"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFMIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def upload(bucket_server):
    """`upload(folder)` makes `URI` what a local folder is."""
    client = boto3.client("s3")

    def copy(folder) -> None:
        for page in client.get_paginator("list_objects_v2").paginate(
            Bucket="mixes", Prefix="photo"
        ):
            for item in page.get("Contents", []):
                client.delete_object(Bucket="mixes", Key=item["Key"])
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"photos/Vögel 1/{path.relative_to(folder)}"
                client.put_object(Bucket="mixes", Key=key, Body=path.read_bytes())
        bucket_server.log.clear()

    return copy


def read_keys(bucket_server) -> list[str]:
    return sorted(path for method, path, _ in bucket_server.log if method == "GET" and "." in path)


def test_a_tree_has_names_and_sizes_and_no_image(bucket_server, upload, photos, tmp_path):
    upload(photos)
    tree = here(URI)
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    found = {}
    for folder, _, files in os.walk(tree):
        for name in files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, tree)] = os.path.getsize(path)
    assert found == {name: (photos / name).stat().st_size for name in names}
    assert read_keys(bucket_server) == []
    assert here(URI) == tree
    assert origin(f"{tree}/{names[0]}") == f"{URI}/{names[0]}"
    assert read_file(f"{tree}/{names[0]}") == (photos / names[0]).read_bytes()
    assert origin(str(photos)) is None
    assert here(str(photos)) == str(photos)
    assert here("cub:/data/CUB") == "cub:/data/CUB"
    assert here("nano") == "nano"


def test_lists_and_tables_have_their_content(bucket_server, upload, tmp_path):
    (tmp_path / "cub").mkdir()
    (tmp_path / "cub" / "images.txt").write_text("1 a.jpg\n")
    (tmp_path / "cub" / "a.jpg").write_bytes(b"image")
    upload(tmp_path / "cub")
    name, tree = here(f"cub:{URI}").split(":")
    assert name == "cub"
    with open(f"{tree}/images.txt") as file:
        assert file.read() == "1 a.jpg\n"
    with open(f"{tree}/a.jpg", "rb") as file:
        assert file.read() == bytes(5)


def test_a_folder_in_a_bucket_is_prepared_as_a_local_one(bucket_server, upload, photos, tmp_path):
    """Each image is read once, and a second call reads none."""
    upload(photos)
    local = prepare(DataConfig(train=str(photos)), str(tmp_path / "local"))
    config = DataConfig(train=URI)
    remote = prepare(config, str(tmp_path / "remote"))
    for name in ("train", "val", "test"):
        assert getattr(remote, name).fingerprint == getattr(local, name).fingerprint
    keys = read_keys(bucket_server)
    assert len(keys) == len(set(keys)) == 32
    prepare(config, str(tmp_path / "remote"))
    assert read_keys(bucket_server) == keys


def test_a_changed_image_is_noticed(bucket_server, upload, photos, write_images, tmp_path):
    upload(photos)
    prepare(DataConfig(train=URI), str(tmp_path / "out"))
    upload(write_images(tmp_path / "others", ["red one", "green", "blau", "黄"], 9))
    with pytest.raises(UserError, match=r"images of s3://.* are not those"):
        prepare(DataConfig(train=URI), str(tmp_path / "out"))


def test_parquet_in_a_bucket(bucket_server, upload, photos, tmp_path):
    files = sorted(photos.rglob("*.png"))
    rows = {
        "image": [file.read_bytes() for file in files],
        "label": [file.parent.name for file in files],
    }
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "tables" / "all.parquet")
    upload(tmp_path / "tables")
    local = prepare(DataConfig(train=str(tmp_path / "tables")), str(tmp_path / "local"))
    for number, uri in enumerate((URI, f"{URI}/all.parquet")):
        remote = prepare(DataConfig(train=uri), str(tmp_path / f"remote {number}"))
        assert remote.train.fingerprint == local.train.fingerprint
        assert np.array_equal(remote.test.labels, local.test.labels)


def test_errors_name_the_bucket(bucket_server, upload, photos, tmp_path):
    with pytest.raises(UserError, match="There is nothing at s3://mixes/none"):
        here("s3://mixes/none")
    with pytest.raises(UserError, match="no-such-bucket"):
        here("s3://no-such-bucket/x")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "a" / "notes.txt").write_text("no image")
    upload(tmp_path / "empty")
    with pytest.raises(UserError, match=URI) as caught:
        prepare(DataConfig(train=URI), str(tmp_path / "out"))
    assert "cache" not in str(caught.value)
    with pytest.raises(UserError, match="plain"), said_of_its_origin():
        raise UserError("plain")
