"""Every form of a user's data set.

Covers `diffmix/datasets/raw.py`, `diffmix/datasets/forms/folder.py`,
`diffmix/datasets/forms/huggingface.py` and `diffmix/datasets/forms/table.py` too.
"""

import os
import sys
from itertools import islice

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffmix.config import DataConfig
from diffmix.datasets.readers import find
from diffmix.errors import UserError

NAMES = ["Zaunkönig", "翠鸟", "house sparrow"]


def rows(raw):
    """Every image as (id, bytes, class name, group)."""
    found = []
    for image_id, image, label, group in raw.examples():
        if isinstance(image, str):
            with open(image, "rb") as file:
                image = file.read()
        found.append((image_id, image, raw.class_names[label], group))
    return found


def read(spec, **options):
    source = find(str(spec), DataConfig(**options))
    return {name: split.read() for name, split in source.splits.items()}


def hf_dataset(image_file, labels=(2, 0, 1, 2), names=("b", "a", "c"), start=0):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    )
    images = [{"bytes": image_file(start + i), "path": None} for i in range(len(labels))]
    return datasets.Dataset.from_dict({"image": images, "label": list(labels)}, features=features)


# Image folders


def test_folder_with_any_class_name(image_folder, image_file):
    raw = read(image_folder(dict.fromkeys(NAMES, 2)))["train"]
    assert raw.class_names == sorted(NAMES)
    assert raw.superclass is None
    assert [(name, label) for name, _, label, _ in rows(raw)] == [
        (f"{name}/{index:02d}.png", name) for name in sorted(NAMES) for index in range(2)
    ]
    assert rows(raw)[0][1] == image_file(NAMES.index(sorted(NAMES)[0]) * 2)


def test_folder_is_recursive_and_skips_what_is_no_image(image_folder, image_file):
    root = image_folder({"a": 1, "b": 1})
    (root / "a/deep/er").mkdir(parents=True)
    (root / "a/deep/er/x.JPG").write_bytes(image_file(9))
    (root / "a/.hidden.png").write_bytes(image_file(8))
    for name in ("a/notes.txt", "readme.md"):
        (root / name).write_text("no image")
    for name in (".cache", "__MACOSX"):
        (root / name).mkdir()
    os.symlink(root / "b", root / "c")
    os.symlink(root / "a", root / "a/deep/again")
    assert [row[0] for row in rows(read(root)["train"])] == [
        "a/00.png",
        "a/deep/er/x.JPG",
        "b/00.png",
        "c/00.png",
    ]


def test_folder_names_are_composed(image_folder):
    raw = read(image_folder({"Zaunko\u0308nig": 1, "b": 1}))["train"]  # how macOS stores an umlaut
    assert raw.class_names == ["Zaunk\u00f6nig", "b"]
    assert rows(raw)[0][0] == "Zaunk\u00f6nig/00.png"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such file names")
def test_folder_name_that_is_not_utf_8(image_folder, image_file):
    root = image_folder({"b": 1})
    folder = os.fsencode(root) + b"/K\xf6nig"
    os.mkdir(folder)
    with open(folder + b"/1.png", "wb") as file:
        file.write(image_file(5))
    assert rows(read(root)["train"])[0][:3] == ("K\\xf6nig/1.png", image_file(5), "K\\xf6nig")


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "test"], ["train", "test"]),
        (["train", "valid"], ["train", "val"]),
        (["train", "test", "val"], ["train", "test", "val"]),
    ],
)
def test_folder_with_splits(image_folder, folders, splits):
    for name in folders:
        root = image_folder({f"{name}/a": 1, f"{name}/b": 2})
    found = read(root)
    assert sorted(found) == sorted(splits)
    assert [row[0] for row in rows(found["train"])] == [
        "train/a/00.png",
        "train/b/00.png",
        "train/b/01.png",
    ]


def test_a_class_called_train_is_a_class(image_folder):
    found = read(image_folder({"train": 1, "test": 1, "bus": 1}))
    assert list(found) == ["train"]
    assert found["train"].class_names == ["bus", "test", "train"]


def test_folder_without_classes(tmp_path, image_file):
    (tmp_path / "1.png").write_bytes(image_file(0))
    with pytest.raises(UserError, match=r"has no sub-folders; put the images of each class"):
        read(tmp_path)


def test_class_folder_without_images(image_folder):
    with pytest.raises(UserError, match=r"class folder 'b' in .* has no image files"):
        read(image_folder({"a": 1, "b": 0}))


def test_stamp_follows_the_files(image_folder):
    root = image_folder({"a": 2, "b": 2})
    stamp = read(root)["train"].stamp
    assert read(root)["train"].stamp == stamp
    os.utime(root / "a/00.png", (1, 1))
    assert read(root)["train"].stamp != stamp


# Parquet


def test_parquet_of_huggingface(tmp_path, image_file):
    hf_dataset(image_file).to_parquet(tmp_path / "x.parquet")
    raw = read(tmp_path / "x.parquet")["train"]
    assert raw.class_names == ["b", "a", "c"]
    assert rows(raw) == [(f"train/{i}", image_file(i), name, None) for i, name in enumerate("cbac")]


def test_parquet_with_binary_images_names_ids_and_groups(tmp_path, image_file):
    table = {
        "photo": [image_file(0), image_file(1)],
        "kind": NAMES[:2],
        "group": ["land", None],
        "image_id": [7, 8],
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    raw = read(tmp_path / "x.parquet", image_column="photo", label_column="kind")["train"]
    assert rows(raw) == [
        ("7", image_file(0), NAMES[0], "land"),
        ("8", image_file(1), NAMES[1], None),
    ]


def test_parquet_with_numbers_is_sorted_by_value(tmp_path, image_file):
    pq.write_table(
        pa.table({"image": [image_file(0)] * 3, "label": [10, 9, 10]}), tmp_path / "x.parquet"
    )
    raw = read(tmp_path / "x.parquet")["train"]
    assert raw.class_names == ["9", "10"]
    assert [row[2] for row in rows(raw)] == ["10", "9", "10"]


def test_parquet_folder(tmp_path, image_file):
    (tmp_path / "data").mkdir()
    for number, name in enumerate(
        ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]
    ):
        hf_dataset(image_file, start=4 * number).to_parquet(tmp_path / f"data/{name}.parquet")
    found = read(tmp_path)
    assert sorted(found) == ["test", "train"]
    assert [row[1] for row in rows(found["train"])] == [image_file(i) for i in range(8)]
    assert [row[0] for row in rows(found["test"])] == [f"test/{i}" for i in range(4)]


def test_parquet_image_by_path(tmp_path, image_file):
    (tmp_path / "1.png").write_bytes(image_file(3))
    pq.write_table(
        pa.table({"image": [{"bytes": None, "path": "1.png"}], "label": ["a"]}),
        tmp_path / "x.parquet",
    )
    assert rows(read(tmp_path / "x.parquet")["train"])[0][1] == image_file(3)


def test_parquet_files_that_do_not_fit_together(tmp_path, image_file):
    for name, label in (("a", 1), ("b", "one")):
        pq.write_table(
            pa.table({"image": [image_file(0)], "label": [label]}), tmp_path / f"{name}.parquet"
        )
    with pytest.raises(UserError, match=r"'label' is missing in .*b\.parquet or not of the type"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"img": [b""], "label": [1]},
            "no column 'image'; choose one of img, label with --data.image_column",
        ),
        (
            {"image": [b""], "y": [1]},
            "no column 'label'; choose one of image, y with --data.label_column",
        ),
        ({"image": [[1, 2]], "label": [1]}, "holds list<.*> and no image files"),
        ({"image": [b""], "label": [0.5]}, "holds double; labels must be integers or class names"),
        ({"image": [b"", b""], "label": ["a", None]}, "Row 1 of .* has no class"),
    ],
)
def test_parquet_that_cannot_be_used(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "x.parquet")


def test_parquet_that_is_none(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 or so")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read(tmp_path / "x.parquet")


# Hugging Face


def test_saved_dataset(tmp_path, image_file):
    hf_dataset(image_file).save_to_disk(tmp_path / "x")
    raw = read(tmp_path / "x")["train"]
    assert raw.class_names == ["b", "a", "c"]
    assert rows(raw) == [(f"train/{i}", image_file(i), name, None) for i, name in enumerate("cbac")]


def test_saved_dataset_dict_with_a_filtered_split(tmp_path, image_file):
    train = hf_dataset(image_file).select([3, 1])
    splits = {
        "train": train,
        "validation": hf_dataset(image_file, start=10),
        "test": hf_dataset(image_file, start=20),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "x")
    found = read(tmp_path / "x")
    assert sorted(found) == ["test", "train", "val"]
    assert found["train"].class_names == ["b", "c"], "classes without an image are none"
    assert rows(found["train"]) == [
        ("train/0", image_file(3), "c", None),
        ("train/1", image_file(1), "b", None),
    ]
    assert rows(found["val"])[0][1] == image_file(10)


def test_unlabeled_test_split_is_no_problem_until_it_is_used(tmp_path, image_file):
    splits = {"train": hf_dataset(image_file), "test": hf_dataset(image_file, labels=[-1, -1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "x")
    found = find(str(tmp_path / "x"), DataConfig())
    found.splits["train"].read()
    with pytest.raises(UserError, match="its 'label' is -1"):
        found.splits["test"].read()


def test_dataset_without_a_train_split(tmp_path, image_file):
    splits = {"first": hf_dataset(image_file), "second": hf_dataset(image_file)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "x")
    with pytest.raises(UserError, match="has the splits first, second, but none called train"):
        find(str(tmp_path / "x"), DataConfig())


def test_hub_id(image_file, monkeypatch):
    asked = []
    loaded = datasets.DatasetDict({"train": hf_dataset(image_file)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or loaded)
    assert rows(read("owner/name")["train"])[0][1:3] == (image_file(0), "c")
    assert asked == ["owner/name"]


def test_hub_id_that_cannot_be_loaded(monkeypatch):
    def fail(name):
        raise ConnectionError("Couldn't reach the hub.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        UserError,
        match=r"^owner/name is neither a folder nor a file here, .*: Couldn't reach the hub.$",
    ):
        find("owner/name", DataConfig())


# Everything else


def test_nano():
    found = read("nano")
    assert sorted(found) == ["test", "train", "val"]
    assert found["train"].superclass == "digit"
    assert len(found["train"].class_names) == 10
    ids = [{row.image_id for row in islice(raw.examples(), 20)} for raw in found.values()]
    assert all(ids)
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("spec", ["/no/such/folder", "no such folder", "s3://bucket/photos"])
def test_nothing_there(spec):
    with pytest.raises(UserError, match="does not exist; give a folder"):
        find(spec, DataConfig())


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="not a Parquet file"):
        find(str(tmp_path / "photos.zip"), DataConfig())
