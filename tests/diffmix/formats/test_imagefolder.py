"""The imagefolder, read back by us and by Hugging Face's own loader."""

import io
import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image

from diffmix.errors import UserError
from diffmix.formats import detect, imagefolder
from diffmix.storage import Folder


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_round_trip(tmp_path, class_names, make_mixes, kept, format):
    folder, mixes = Folder(str(tmp_path / "a b" / "ü")), make_mixes(format)
    assert imagefolder.write(folder, iter(mixes), class_names) == 23
    assert detect(folder) == "imagefolder"
    assert [kept(mix) for mix in imagefolder.read(folder)] == [kept(mix) for mix in mixes]


def test_hugging_faces_loader_reads_it(tmp_path, class_names, make_mixes):
    mixes = make_mixes("JPEG")
    imagefolder.write(Folder(str(tmp_path / "mixes")), mixes, class_names)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "mixes"), cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded) == ["train"]
    rows = {row["mix_id"]: row for row in loaded["train"]}
    assert len(rows) == 23
    for mix in mixes:
        row = rows[mix.mix_id]
        expected = Image.open(io.BytesIO(mix.load()))
        assert np.array_equal(np.asarray(row["image"]), np.asarray(expected))
        for name in ("source_id", "source", "target", "seed", "accepted"):
            assert row[name] == getattr(mix, name)
        assert np.float32(row["strength"]) == np.float32(mix.strength)
        assert row["score"] == mix.score


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda row: {"file_name": row["file_name"], "label": 3},
            "Line 2 .* does not describe a mix",
        ),
        (lambda row: row | {"strength": 1.5}, "Line 2 .* has the strength 1.5"),
        (
            lambda row: {key: value for key, value in row.items() if key != "file_name"},
            "does not describe an image",
        ),
        (
            lambda row: row | {"file_name": "images/0000/none.png"},
            r"images/0000/none\.png cannot be read",
        ),
    ],
)
def test_what_is_no_mix(tmp_path, class_names, make_mixes, change, sentence):
    folder = Folder(str(tmp_path))
    imagefolder.write(folder, make_mixes(), class_names)
    lines = (tmp_path / "metadata.jsonl").read_text().splitlines()
    lines[1] = json.dumps(change(json.loads(lines[1])))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=sentence):
        [mix.load() for mix in imagefolder.read(folder)]


def test_a_broken_image_is_named(tmp_path, class_names, make_mixes):
    mixes = [replace(mix, load=lambda: b"no image") for mix in make_mixes()]
    with pytest.raises(UserError, match="The image of mix 0 cannot be read"):
        imagefolder.write(Folder(str(tmp_path)), mixes, class_names)
