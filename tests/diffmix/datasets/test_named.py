"""Published data sets by name: what they are called, copies that are not whole, and their use.

Covers `diffmix/datasets/named/*.py` and `diffmix/datasets/named/published.py` too.
"""

import os
import pickle
import re

import pytest
import torch
from PIL import Image
from scipy.io import savemat

from diffmix.config import DataConfig
from diffmix.datasets.named import REGISTRY
from diffmix.datasets.prepare import prepare
from diffmix.datasets.readers import find
from diffmix.errors import UserError

SETS = REGISTRY.entries
ALBATROSS, TANAGER = "001.Black_footed_Albatross", "139.Scarlet_Tanager"
SUPERCLASSES = {
    "aircraft": "aircraft", "cars": "car", "cub": "bird", "dogs": "dog", "flowers": "flower",
    "flowers-half": "flower", "food101": "food", "pets": "pet", "voc": "object",
    "voc-main": "object", "waterbirds": "bird", "aircraft-train": "aircraft",
    "diffda-aircraft": "aircraft", "diffda-cub": "bird",
}  # fmt: skip
YACHT = (
    "<annotation><object><name>yacht</name><difficult>0</difficult>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>"
)
LISTS = {
    "aircraft": [
        "data/variants.txt",
        "data/images_variant_trainval.txt",
        "data/images_variant_test.txt",
    ],
    "aircraft-train": ["data/variants.txt", "data/images_variant_train.txt"],
    "diffda-aircraft": [],  # missing folders have a test of their own
    "diffda-cub": [],
    "cars": [
        "devkit/cars_meta.mat",
        "devkit/cars_train_annos.mat",
        "cars_test_annos_withlabels.mat",
    ],
    "cub": ["images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt"],
    "dogs": ["train_list.mat", "test_list.mat"],
    "flowers": ["imagelabels.mat", "setid.mat"],
    "flowers-half": ["imagelabels.mat"],
    "food101": ["meta/classes.txt", "meta/labels.txt", "meta/train.txt", "meta/test.txt"],
    "pets": ["annotations/trainval.txt", "annotations/test.txt"],
    "voc": [
        "ImageSets/Segmentation/train.txt",
        "ImageSets/Segmentation/val.txt",
        "SegmentationObject/2007_000032.png",
        "SegmentationClass/2007_000033.png",
    ],
    "voc-main": [
        "ImageSets/Main/train.txt",
        "ImageSets/Main/val.txt",
        "Annotations/2008_000007.xml",
    ],
    "waterbirds": ["metadata.csv"],
}


def read(name, root):
    source = find(f"{name}:{root}", DataConfig())
    return {name: split.read() for name, split in source.splits.items()}


def rows(raw):
    return [(found.image_id, raw.class_names[found.label], found.group) for found in raw.examples()]


def test_every_data_set_is_tried():
    assert set(SETS) == set(SUPERCLASSES) == set(LISTS)


@pytest.mark.parametrize("name", SETS)
def test_superclass_and_splits(published, name):
    found = read(name, published(name))
    assert {raw.superclass for raw in found.values()} == {SUPERCLASSES[name]}
    assert list(found) == (["train", "val", "test"] if name == "waterbirds" else ["train", "test"])
    ids = [example.image_id for raw in found.values() for example in raw.examples()]
    assert len(ids) == len(set(ids)), "no image is in two splits"


# Copies that are not whole


@pytest.mark.parametrize(
    ("name", "file"), [(name, file) for name, files in LISTS.items() for file in files]
)
def test_a_missing_list_is_named(published, name, file):
    root = published(name)
    (root / file).unlink()
    message = (
        f"The file {file} of {SETS[name].title} is missing in {root}; the data set comes from "
        f"{SETS[name].source}."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read(name, root)


def test_a_missing_folder_of_diffda_eval_is_named(published):
    root = published("diffda-cub")
    (root / "CUB_200_2011").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"folder CUB_200_2011 of DiffDA-Eval's CUB.* is missing"):
        read("diffda-cub", root)


def test_a_list_of_the_test_images_is_not_needed_for_training(published):
    root = published("dogs")
    (root / "test_list.mat").unlink()
    find(f"dogs:{root}", DataConfig()).splits["train"].read()


def test_a_missing_folder_of_images_is_named(published):
    root = published("cub")
    (root / "images" / TANAGER).rename(root / "elsewhere")
    with pytest.raises(
        UserError,
        match=rf"^The folder images/{TANAGER} of CUB-200-2011 is missing in {root}; the data set "
        "comes from",
    ):
        read("cub", root)


def test_a_missing_image_is_left_to_validation(published):
    root = published("cub")
    next((root / "images" / TANAGER).iterdir()).unlink()
    assert len(rows(read("cub", root)["train"])) == 4


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (
            "cub",
            "images.txt",
            "1 a.jpg\n2\n",
            "images.txt of CUB-200-2011 has the line '2', which lacks a column",
        ),
        (
            "cub",
            "classes.txt",
            "1 x\n",
            r"lists of CUB-200-2011 in .* are not as they were published \(KeyError: '2'; the last "
            r"one read is images.txt\)",
        ),
        ("cub", "images.txt", b"1 \xff\n", r"not as they were published \(UnicodeDecodeError"),
        (
            "dogs",
            "train_list.mat",
            "no",
            "train_list.mat of Stanford Dogs is not a readable MATLAB file",
        ),
        (
            "waterbirds",
            "metadata.csv",
            "img_filename,split\na/b.jpg,0\n",
            r"Waterbirds in .* \(KeyError: 'y'; ",
        ),
        (
            "aircraft",
            "data/variants.txt",
            "A300B4\n",
            r"FGVC-Aircraft in .* \(KeyError: '707-320'; ",
        ),
        (
            "voc",
            "SegmentationObject/2007_000032.png",
            "no",
            r"Pascal VOC in .* \(UnidentifiedImageError",
        ),
        (
            "voc-main",
            "Annotations/2008_000002.xml",
            "<annotation>",
            r"Pascal VOC in .* \(ParseError",
        ),
        (
            "voc-main",
            "Annotations/2008_000002.xml",
            YACHT,
            r"\(KeyError: 'yacht'; .* Annotations/2008_000002.xml\)",
        ),
    ],
)
def test_lists_that_cannot_be_used(published, name, file, content, message):
    root = published(name)
    (root / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message):
        read(name, root)


def test_a_matlab_file_of_something_else(published):
    root = published("flowers")
    savemat(root / "setid.mat", {"trnid": [1], "valid": [2]})
    with pytest.raises(
        UserError, match=r"setid\.mat of Oxford Flowers-102 has no variable 'tstid'"
    ):
        read("flowers", root)


def test_a_voc_mask_without_an_object(published):
    root = published("voc")
    Image.new("P", (4, 2)).save(root / "SegmentationObject/2007_000039.png")
    with pytest.raises(
        UserError,
        match=r"2007_000039 shows no object; the last one read is .*Class/2007_000039.png",
    ):
        read("voc", root)


@pytest.mark.parametrize("spec", ["cub:", "cub:/no/such/folder"])
def test_no_folder(spec):
    with pytest.raises(
        UserError,
        match=f"^{spec} names no folder; give the one that CUB-200-2011 was unpacked into",
    ):
        find(spec, DataConfig())


@pytest.mark.parametrize("spec", ["cub", "cubs:/data", "CUB:/data"])
def test_names_that_do_not_exist(spec):
    with pytest.raises(
        UserError,
        match=f"'{spec}' does not exist; .*NAME:FOLDER .* NAME is aircraft, aircraft-train, cars, ",
    ):
        find(spec, DataConfig())


# In use


def test_images_are_not_read_and_splits_can_be_sent(published):
    root = published("pets")
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    raw = pickle.loads(pickle.dumps(find(f"pets:{root}", DataConfig()).splits["train"])).read()
    assert len(rows(raw)) == 4


def test_home_and_relative_folders(published, tmp_path, monkeypatch):
    expected = rows(read("cub", published("cub"))["train"])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert rows(read("cub", "~/copy")["train"]) == rows(read("cub", "copy")["train"]) == expected


@pytest.mark.parametrize(
    "file", ["train_test_split.txt", f"images/{TANAGER}/Scarlet_Tanager_0002_796102.jpg"]
)
def test_the_stamp_follows_lists_and_images(published, file):
    root = published("cub")
    stamp = read("cub", root)["train"].stamp
    assert read("cub", root)["train"].stamp == stamp
    os.utime(root / file, (1, 1))
    assert read("cub", root)["train"].stamp != stamp


def test_trained_on_cub_and_tested_on_waterbirds(published, tmp_path):
    config = DataConfig(
        train=f"cub:{published('cub')}",
        test=f"waterbirds:{published('waterbirds', 'other')}",
        val_fraction=0,
    )
    prepared = prepare(config, str(tmp_path / "out"))
    assert prepared.train.class_names == prepared.test.class_names == [ALBATROSS, TANAGER]
    assert prepared.test.superclass == "bird"
    assert prepared.test.labels.tolist() == [0, 0, 1, 1]
    assert prepared.test.groups == [
        "waterbird on land",
        "waterbird on water",
        "landbird on water",
        "landbird on land",
    ]
    assert len(prepared.train) == 4


def test_a_cub_classifier_is_judged_by_waterbirds_four_groups(published, tmp_path):
    from diffmix.classifier.metrics import accuracy, predict
    from diffmix.classifier.model import build_model, describe
    from diffmix.config import TrainConfig

    config = DataConfig(
        train=f"cub:{published('cub')}",
        test=f"waterbirds:{published('waterbirds', 'other')}",
        val_fraction=0,
    )
    test = prepare(config, str(tmp_path / "out")).test
    train = TrainConfig(model_name="resnet10t", pretrained=False, resolution=32)
    model = build_model(train, 2)
    model.fc.weight.data.zero_()
    model.fc.bias.data[:] = torch.tensor(
        [1.0, 0.0]
    )  # takes every bird for the albatross, the one waterbird
    found = accuracy(
        predict(model, describe(train, test.class_names), test), test.labels, test.groups
    )
    assert found["per_group"] == {
        "waterbird on land": 1.0,
        "waterbird on water": 1.0,
        "landbird on water": 0.0,
        "landbird on land": 0.0,
    }
    assert found["worst_group"] == 0.0
    assert found["top1"] == 0.5
