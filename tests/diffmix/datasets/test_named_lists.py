"""What the lists of published data sets say, from miniature copies; some are read by torchvision as
well. Covers the modules of `named/`.
"""

import itertools
import os
import random

import numpy as np
import pytest
import torchvision.datasets as torchvision_sets

from diffmix.config import DataConfig
from diffmix.datasets.named.diffda import few_shot
from diffmix.datasets.named.flowers import FLOWERS
from diffmix.datasets.named.voc import VOC
from diffmix.datasets.readers import find

ALBATROSS, TANAGER = "001.Black_footed_Albatross", "139.Scarlet_Tanager"
# Class names, and for each image its id, class and, where there is one, group
TRAIN_AND_TEST = {
    "aircraft": (
        [
            ("1025794", "707-320"),
            ("0043211", "F/A-18"),
            ("1340192", "Global Express"),
            ("0056978", "DHC-8-100"),
            ("0698580", "707-320"),
        ],
        [("0062765", "Global Express"), ("0034309", "F/A-18")],
        "data/images/{}.jpg",
    ),
    "cars": (
        [
            ("train/00001", "Ram C/V Cargo Van Minivan 2012"),
            ("train/00002", "AM General Hummer SUV 2000"),
            ("train/00003", "smart fortwo Convertible 2012"),
            ("train/00004", "Ram C/V Cargo Van Minivan 2012"),
        ],
        [
            ("test/00001", "smart fortwo Convertible 2012"),
            ("test/00002", "AM General Hummer SUV 2000"),
        ],
        "cars_{}.jpg",
    ),
    "cub": (
        [
            (f"{ALBATROSS}/Black_footed_Albatross_0001_796101", ALBATROSS),
            (f"{ALBATROSS}/Black_footed_Albatross_0002_796102", ALBATROSS),
            (f"{TANAGER}/Scarlet_Tanager_0000_796100", TANAGER),
            (f"{TANAGER}/Scarlet_Tanager_0002_796102", TANAGER),
        ],
        [
            (f"{ALBATROSS}/Black_footed_Albatross_0000_796100", ALBATROSS),
            (f"{TANAGER}/Scarlet_Tanager_0001_796101", TANAGER),
        ],
        "images/{}.jpg",
    ),
    "dogs": (
        [
            ("n02086240-Shih-Tzu/n02086240_1", "Shih-Tzu"),
            ("n02097658-silky_terrier/n02097658_7", "silky terrier"),
            ("n02097658-silky_terrier/n02097658_8", "silky terrier"),
        ],
        [
            ("n02086240-Shih-Tzu/n02086240_2", "Shih-Tzu"),
            ("n02097658-silky_terrier/n02097658_9", "silky terrier"),
        ],
        "Images/{}.jpg",
    ),
    "food101": (
        [
            ("apple_pie/1005649", "Apple pie"),
            ("apple_pie/1014775", "Apple pie"),
            ("beef_carpaccio/1", "Beef carpaccio"),
        ],
        [("beef_carpaccio/10", "Beef carpaccio"), ("apple_pie/1011328", "Apple pie")],
        "images/{}.jpg",
    ),
    "pets": (
        [
            ("Abyssinian_100", "Abyssinian"),
            ("Abyssinian_102", "Abyssinian"),
            ("american_bulldog_100", "american bulldog"),
            ("Birman_9", "Birman"),
        ],
        [
            ("american_bulldog_203", "american bulldog"),
            ("Birman_1", "Birman"),
            ("Abyssinian_2", "Abyssinian"),
        ],
        "images/{}.jpg",
    ),
    "voc": (
        [("2007_000032", "person"), ("2007_000039", "television")],
        [("2007_000033", "television")],
        "JPEGImages/{}.jpg",
    ),
    "voc-main": (
        [("2008_000002", "television"), ("2008_000003", "train")],
        [("2008_000007", "person")],
        "JPEGImages/{}.jpg",
    ),
    "waterbirds": (
        [
            (f"{ALBATROSS}/a", ALBATROSS, "waterbird on water"),
            (f"{TANAGER}/e", TANAGER, "landbird on land"),
        ],
        [
            (f"{ALBATROSS}/c", ALBATROSS, "waterbird on land"),
            (f"{ALBATROSS}/d", ALBATROSS, "waterbird on water"),
            (f"{TANAGER}/f", TANAGER, "landbird on water"),
            (f"{TANAGER}/g", TANAGER, "landbird on land"),
        ],
        "{}.jpg",
    ),
}
CLASS_ORDERS = {
    "aircraft": ["707-320", "DHC-8-100", "F/A-18", "Global Express"],
    "cars": [
        "AM General Hummer SUV 2000",
        "Ram C/V Cargo Van Minivan 2012",
        "smart fortwo Convertible 2012",
    ],
    "pets": ["Abyssinian", "american bulldog", "Birman"],
    "voc-main": ["train", "television"],
}


def read(name, root):
    source = find(f"{name}:{root}", DataConfig())
    return {name: split.read() for name, split in source.splits.items()}


def rows(raw):
    return [(found.image_id, raw.class_names[found.label], found.group) for found in raw.examples()]


# What the splits hold


@pytest.mark.parametrize("name", TRAIN_AND_TEST)
def test_ids_classes_and_groups(published, name):
    root = published(name)
    train, test, path = TRAIN_AND_TEST[name]
    found = read(name, root)
    for split, expected in (("train", train), ("test", test)):
        assert rows(found[split]) == [
            (path.format(image), class_name, (*group, None)[0])
            for image, class_name, *group in expected
        ]
        assert [example.image for example in found[split].examples()] == [
            str(root / path.format(image)) for image, *_ in expected
        ]
        assert all(os.path.isfile(example.image) for example in found[split].examples())
    assert sorted(found["train"].class_names) == sorted({class_name for _, class_name, *_ in train})
    assert found["train"].class_names == CLASS_ORDERS.get(name, found["train"].class_names)


@pytest.mark.parametrize(
    ("name", "publisher", "folder"),
    [
        ("diffda-cub", "cub", "CUB_200_2011"),
        ("diffda-aircraft", "aircraft-train", "fgvc-aircraft-2013b"),
    ],
)
def test_diffda_eval_has_the_publishers_splits(published, name, publisher, folder):
    root = published(name)
    theirs = read(publisher, root / folder)
    for split, raw in read(name, root).items():
        assert rows(raw) == [(f"{folder}/{path}", *rest) for path, *rest in rows(theirs[split])]


def test_shots_as_diffda_eval_draws_them():
    """By its rule in other words: Python's global generator, seeded, class by class in the order of
    first appearance, `sample`, or `choices` where there are too few.
    """
    labels = np.random.default_rng(0).permutation(np.repeat([3, 0, 2, 1], [30, 29, 30, 2]))
    for seed, shots in itertools.product((0, 1, 2), (1, 5, 10)):
        random.seed(seed)
        expected = []
        for label in dict.fromkeys(labels):
            own = [index for index in range(len(labels)) if labels[index] == label]
            try:
                expected += random.sample(own, shots)
            except ValueError:
                expected += random.choices(own, k=shots)
        assert few_shot(labels, shots, seed).tolist() == sorted(expected)


def test_waterbirds_validation_images(published):
    assert rows(read("waterbirds", published("waterbirds"))["val"]) == [
        (f"{ALBATROSS}/b.jpg", ALBATROSS, "waterbird on land")
    ]


def test_cars_with_all_labels_in_one_list(published):
    found = read("cars", published("cars in one list"))
    assert rows(found["train"]) == [
        ("car_ims/000001.jpg", "Acura RL Sedan 2012", None),
        ("car_ims/000003.jpg", "BMW M3 Coupe 2012", None),
    ]
    assert rows(found["test"]) == [
        ("car_ims/000002.jpg", "BMW M3 Coupe 2012", None),
        ("car_ims/000004.jpg", "Acura RL Sedan 2012", None),
    ]


def test_cars_with_the_test_labels_in_the_devkit(published):
    root = published("cars")
    expected = rows(read("cars", root)["test"])
    (root / "cars_test_annos_withlabels.mat").rename(root / "devkit/cars_test_annos_withlabels.mat")
    assert rows(read("cars", root)["test"]) == expected


def test_voc_with_an_annotated_test_set(published):
    found = read("voc-main", published("voc-main with a test set"))
    assert [row[:2] for row in rows(found["train"])] == [
        ("JPEGImages/2008_000002.jpg", "television"),
        ("JPEGImages/2008_000003.jpg", "train"),
        ("JPEGImages/2008_000007.jpg", "person"),
    ]
    assert rows(found["test"]) == [("JPEGImages/2008_000009.jpg", "cow", None)]


def test_comments_and_blank_lines_are_no_images(published):
    root = published("pets")
    expected = rows(read("pets", root)["train"])
    header = (root / "annotations/list.txt").read_text().split("Abyssinian")[0]
    assert header.startswith("#Image CLASS-ID SPECIES BREED ID\n")
    file = root / "annotations/trainval.txt"
    file.write_text(f"{header}\n{file.read_text()}\n")
    assert rows(read("pets", root)["train"]) == expected


def test_flowers_in_halves_as_in_the_papers_code(published):
    found = read("flowers-half", published("flowers-half"))
    labels = np.array(
        [FLOWERS.index(name) for _, name, _ in sorted(rows(found["train"]) + rows(found["test"]))]
    )
    rng, train, test = np.random.default_rng(0), [], []
    for label in range(102):  # every class takes its turn at the generator
        files = np.flatnonzero(labels == label) + 1
        first, second = np.array_split(files[rng.permutation(len(files))], [int(0.5 * len(files))])
        train += first.tolist()
        test += second.tolist()
    assert [int(row[0][10:15]) for row in rows(found["train"])] == train
    assert [int(row[0][10:15]) for row in rows(found["test"])] == test
    assert (len(train), len(test)) == (9, 12)


# The same copy in torchvision's own readers


def compare(raw, root, paths, classes):
    """Ids and classes of every image, in whatever order, and that ours is the same file."""
    theirs = [
        (os.path.relpath(path, root), name.lower())
        for path, name in zip(paths, classes, strict=True)
    ]
    assert sorted((image_id, name.lower()) for image_id, name, _ in rows(raw)) == sorted(theirs)
    assert sorted(found.image for found in raw.examples()) == sorted(map(str, paths))


@pytest.mark.parametrize(
    ("name", "split", "theirs"),
    [
        ("aircraft", "train", "trainval"),
        ("aircraft", "test", "test"),
        ("aircraft-train", "train", "train"),
        ("aircraft-train", "test", "test"),
    ],
)
def test_aircraft_as_torchvision_reads_it(published, tmp_path, name, split, theirs):
    root = published(name, "fgvc-aircraft-2013b")
    peer = torchvision_sets.FGVCAircraft(tmp_path, theirs)
    compare(
        read(name, root)[split],
        root,
        peer._image_files,
        [peer.classes[label] for label in peer._labels],
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_cars_as_torchvision_reads_them(published, tmp_path, split):
    root = published("cars", "stanford_cars")
    peer = torchvision_sets.StanfordCars(tmp_path, split)
    compare(
        read("cars", root)[split],
        root,
        [path for path, _ in peer._samples],
        [peer.classes[label] for _, label in peer._samples],
    )


@pytest.mark.parametrize(("split", "theirs"), [("train", ["train", "val"]), ("test", ["test"])])
def test_flowers_as_torchvision_reads_them(published, tmp_path, monkeypatch, split, theirs):
    root = published("flowers", "flowers-102")
    monkeypatch.setattr(
        torchvision_sets.Flowers102, "_check_integrity", lambda self: True
    )  # it knows the checksums of the real lists
    peers = [torchvision_sets.Flowers102(tmp_path, name) for name in theirs]
    files = [path for peer in peers for path in peer._image_files]
    compare(
        read("flowers", root)[split],
        root,
        files,
        [peer.classes[label] for peer in peers for label in peer._labels],
    )


def test_flower_names_are_torchvisions():
    assert [name.rstrip("?") for name in torchvision_sets.Flowers102.classes] == FLOWERS
    assert len(set(FLOWERS)) == 102


@pytest.mark.parametrize(("split", "theirs"), [("train", "trainval"), ("test", "test")])
def test_pets_as_torchvision_reads_them(published, tmp_path, split, theirs):
    root = published("pets", "oxford-iiit-pet")
    peer = torchvision_sets.OxfordIIITPet(tmp_path, theirs)
    compare(
        read("pets", root)[split],
        root,
        peer._images,
        [peer.classes[label] for label in peer._labels],
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_food101_as_torchvision_reads_it(published, tmp_path, split):
    root = published("food101", "food-101")
    peer = torchvision_sets.Food101(tmp_path, split)
    classes = [peer.classes[label].replace("_", " ") for label in peer._labels]
    compare(read("food101", root)[split], root, peer._image_files, classes)


@pytest.mark.parametrize(("split", "theirs"), [("train", "train"), ("test", "val")])
def test_voc_as_torchvision_reads_it(published, tmp_path, split, theirs):
    root = published("voc", "VOCdevkit/VOC2012")
    peer = torchvision_sets.VOCSegmentation(tmp_path, "2012", theirs)
    raw = read("voc", root)[split]
    assert [found.image for found in raw.examples()] == peer.images
    for index, (_, name, _) in enumerate(rows(raw)):
        assert list(VOC.values()).index(name) + 1 in np.asarray(peer[index][1])


@pytest.mark.parametrize(("split", "theirs"), [("train", "train"), ("test", "val")])
def test_voc_main_as_torchvision_reads_it(published, tmp_path, split, theirs):
    root = published("voc-main", "VOCdevkit/VOC2012")
    peer = torchvision_sets.VOCDetection(tmp_path, "2012", theirs)
    expected = {}
    for path, (_, content) in zip(peer.images, peer, strict=True):
        areas = {}
        for found in content["annotation"]["object"]:
            box = {side: float(value) for side, value in found["bndbox"].items()}
            areas[(box["xmax"] - box["xmin"]) * (box["ymax"] - box["ymin"])] = found["name"]
            if found["difficult"] == "1":
                areas.popitem()
        if areas:
            expected[path] = VOC[areas[max(areas)]]
    compare(read("voc-main", root)[split], root, expected.keys(), expected.values())
