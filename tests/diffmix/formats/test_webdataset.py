"""WebDataset shards, read back by us, by the webdataset library and by Hugging Face's loader."""

import io
import json
import tarfile

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image

from diffmix.errors import UserError
from diffmix.formats import detect
from diffmix.formats import webdataset as layout
from diffmix.storage import Folder


@pytest.fixture
def shards(tmp_path, class_names, make_mixes, monkeypatch):
    """Three shards of at most 8 mixes, and the same again in the folder `again`."""
    monkeypatch.setattr(layout, "SHARD_MIXES", 8)
    for name in ("shards", "again"):
        folder = Folder(str(tmp_path / name))
        assert layout.write(folder, iter(make_mixes("JPEG")), class_names) == 23
    return sorted((tmp_path / "shards").iterdir())


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_round_trip(tmp_path, class_names, make_mixes, kept, format):
    folder, mixes = Folder(str(tmp_path / "ü")), make_mixes(format)
    layout.write(folder, iter(mixes), class_names)
    assert detect(folder) == "webdataset"
    assert [kept(mix) for mix in layout.read(folder)] == [kept(mix) for mix in mixes]


def test_same_mixes_same_shards(tmp_path, shards):
    assert [file.name for file in shards] == [f"mixes-00000{i}.tar" for i in range(3)]
    for file in shards:
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_the_webdataset_library_reads_it(shards, make_mixes):
    dataset = (
        webdataset.WebDataset([str(file) for file in shards], shardshuffle=False, empty_check=False)
        .decode("pil")
        .to_tuple("jpg", "json")
    )
    for mix, (image, fields) in zip(make_mixes("JPEG"), dataset, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(mix.load()))))
        assert fields["strength"] in (0.3, 0.7, 1.0)
        for name in ("mix_id", "source_id", "source", "target", "seed", "score", "accepted"):
            assert fields[name] == getattr(mix, name)


def test_hugging_faces_loader_reads_it(tmp_path, shards, make_mixes):
    files = [str(file) for file in shards]
    rows = datasets.load_dataset(
        "webdataset", data_files={"train": files}, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["json"]["target"] for row in rows] == [mix.target for mix in make_mixes()]


def add(file, name: str, data: bytes) -> None:
    with tarfile.open(file, "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("x.jpg", b"an image without a description", "The sample x in .* is no mix"),
        ("x.json", b"{}", "The sample x in .* is no mix"),
        ("x.json", b"{", r"mixes-000002\.tar cannot be read"),
    ],
)
def test_what_is_no_mix(tmp_path, shards, name, data, sentence):
    add(shards[2], name, data)
    with pytest.raises(UserError, match=sentence):
        list(layout.read(Folder(str(tmp_path / "shards"))))


def test_a_sample_without_the_fields_of_a_mix(tmp_path, shards):
    add(shards[2], "x.jpg", b"1")
    add(shards[2], "x.json", json.dumps({"label": 3}).encode())
    with pytest.raises(UserError, match=r"The sample x in .* does not describe a mix"):
        list(layout.read(Folder(str(tmp_path / "shards"))))


def test_a_truncated_shard(tmp_path, shards):
    shards[1].write_bytes(shards[1].read_bytes()[:1500])
    with pytest.raises(UserError, match=r"mixes-000001\.tar cannot be read"):
        list(layout.read(Folder(str(tmp_path / "shards"))))
