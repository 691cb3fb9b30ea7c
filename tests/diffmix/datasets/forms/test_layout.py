"""Which folders of an image folder are classes, and which are splits.

Covers `diffmix/datasets/forms/tree.py`, `diffmix/datasets/forms/leftovers.py` and
`diffmix/datasets/forms/folder.py` too.
"""

import os

import pytest

from diffmix.config import DataConfig
from diffmix.datasets.readers import find
from diffmix.errors import UserError

PET = {"cat": 2, "dog": 3}


@pytest.fixture
def put(tmp_path, image_file):
    """A function that writes `{folder: number of images}` below a new folder and gives its path."""

    def make(counts: dict[str, int], name: str = "photos"):
        seed = 0
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                (tmp_path / name / folder / f"{index}.png").write_bytes(image_file(seed))
                seed += 1
        return tmp_path / name

    return make


def look(root, **options):
    """Each split's images per class, how many images are ignored for which reason, the notes."""
    source = find(str(root), DataConfig(), **options)
    counts = {}
    for name, split in source.splits.items():
        raw = split.read()
        labels = [found.label for found in raw.examples()]
        counts[name] = {each: labels.count(label) for label, each in enumerate(raw.class_names)}
    ignored = {reason: len(names) for reason, names in source.ignored.items()}
    return counts, ignored, source.notes


def below(folder, counts=PET):
    return {f"{folder}/{name}": count for name, count in counts.items()}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("training", "testing"),
        ("training_set", "test_set"),
        ("train", "eval"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("cars_train", "cars_test"),
        ("archive/set/train", "archive/set/test"),
        ("train/images", "test/images"),
    ],
)
def test_splits_by_any_spelling(put, train, test):
    counts, ignored, _ = look(put(below(train) | below(test, {"cat": 1})))
    assert counts == {"train": PET, "test": {"cat": 1}}
    assert ignored == {}


@pytest.mark.parametrize("val", ["val", "Valid", "VALIDATION", "dev"])
def test_validation_by_any_spelling(put, val):
    assert look(put(below("train") | below(val)))[0] == {"train": PET, "val": PET}


def test_what_was_taken_is_told(put):
    source = find(str(put(below("Training") | below("eval"))), DataConfig())
    assert {name: split.taken_from for name, split in source.splits.items()} == {
        "train": "Training/",
        "test": "eval/",
    }


@pytest.mark.parametrize("test", ["test", "Testing", "test/test", "test/images", "test/unknown"])
def test_a_test_folder_without_labels_is_left_alone(put, test):
    counts, ignored, notes = look(put({**below("train"), test: 4}))
    assert counts == {"train": PET}
    assert ignored == {"in a split without labels": 4}
    assert "its 4 images have no labels and are left alone" in notes[0]


@pytest.mark.parametrize("name", ["test", "Eval", "val", "dev"])
def test_a_folder_without_labels_beside_classes(put, name):
    counts, ignored, notes = look(put({**PET, name: 4}))
    assert counts == {"train": PET}
    assert ignored == {"in a split without labels": 4}
    assert len(notes) == 1


def test_a_test_folder_with_classes_beside_classes(put):
    counts, ignored, _ = look(put({**PET, **below("test", {"Dog": 4})}))
    assert counts == {"train": PET, "test": {"Dog": 4}}
    assert ignored == {}


def test_splits_inside_classes(put):
    folders = {"cat/train": 2, "cat/test": 1, "dog/train/good": 2, "dog/test/good": 1, "fox": 1}
    counts, _, _ = look(put(folders))
    assert counts == {"train": {"cat": 2, "dog": 2, "fox": 1}, "test": {"cat": 1, "dog": 1}}


def test_one_folder_named_test_inside_a_class_is_said(put):
    counts, _, notes = look(put({"cat": 2, "cat/test": 1, "dog": 2}))
    assert counts == {"train": {"cat": 3, "dog": 2}}
    assert notes == [
        "the images in cat/test count as cat's like all others in that folder; its name says test"
    ]


def test_classes_that_are_called_like_splits(put):
    counts, ignored, notes = look(put({"train": 1, "test": 1, "bus": 1}))
    assert (counts, ignored) == ({"train": {"bus": 1, "test": 1, "train": 1}}, {})
    assert len(notes) == 2
    assert "train is taken for a class" in notes[1]
    counts, _, notes = look(put({"valid": 2, "bus": 1, "car": 2}, "with a note"))
    assert counts == {"train": {"bus": 1, "car": 2, "valid": 2}}
    assert "valid is taken for a class" in notes[0]
    for folders in ({"valid": 2, "invalid": 2}, below("valid") | below("invalid")):
        counts, _, notes = look(put(folders, f"quality {len(folders)}"))
        assert list(counts["train"]) == ["invalid", "valid"]
        assert notes == []


def test_folders_beside_splits_are_counted(put):
    counts, ignored, notes = look(put({**below("train"), **below("test"), "extra": 5}))
    assert counts == {"train": PET, "test": PET}
    assert ignored == {"in a folder that is no split": 5}
    assert notes == ["extra is no split, so its 5 images are left alone"]


def test_loose_images_are_counted(put):
    assert look(put({**PET, ".": 3}))[1] == {"in no class folder": 3}
    folders = {**below("train"), **below("test"), "train": 2, ".": 1}
    assert look(put(folders, "with splits"))[1] == {"in no class folder": 3}


def test_two_folders_of_one_split(put):
    counts, _, notes = look(
        put({**below("train1"), **below("train2", {"dog": 1}), **below("test")})
    )
    assert counts == {"train": {"cat": 2, "dog": 4}, "test": PET}
    assert "train has the images of train1/, train2/" in notes


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ({"train": 3, "test": 3}, "'test', 'train', named like splits, without folders of classes"),
        ({"cars_train": 3, "cars_test": 3}, "named like splits, without folders of classes"),
        ({"train": 3}, "named like splits, without folders of classes"),
        ({"train/a": 1, "train/b": 1, "bus": 1}, "may be the training split or a class; give"),
        (below("test"), "has no training images, only test/"),
        ({**PET, **below("test", {"fox": 1})}, "named like a test split, but has none of the cl"),
        ({"a": 1, "b": 0, "c": 1}, "class folder 'b' in .* has no image files"),
    ],
)
def test_what_is_refused(put, folders, sentence):
    with pytest.raises(UserError, match=sentence):
        look(put(folders))


def test_a_test_set_may_have_one_class_with_folders_in_it(put):
    root = put({"cat/2019": 1, "cat/2020": 1})
    assert look(root, for_test=True)[0] == {"train": {"cat": 2}}
    assert look(put(below("test"), "only test"), for_test=True)[0] == {"test": PET}


def test_the_folder_of_the_test_images_and_the_run_folder_are_left_out(put):
    root = put({**PET, "holdout/cat": 1, "run/mixes": 2})
    leave = tuple(os.path.realpath(root / name) for name in ("holdout", "run"))
    assert look(root, leave=leave)[:2] == ({"train": PET}, {})


def test_an_older_run_folder_among_the_classes_is_ignored(put):
    root = put({**PET, "run/data": 1, "run/report": 2})
    for name in ("config.yaml", "data/data.json"):
        (root / "run" / name).write_text("")
    assert look(root)[:2] == ({"train": PET}, {"in run folders of diffmix": 5})


def test_content_counts_and_not_the_name(put, image_file):
    root = put({"a": 1, "b": 1})
    for name, format in (
        ("x", "JPEG"),
        ("y.jpg_large", "JPEG"),
        ("z.dat", "WEBP"),
        ("v.txt", "PNG"),
    ):
        (root / "a" / name).write_bytes(image_file(7, format))
    (root / "a/BMW").write_bytes(b"BMW 3 Series Sedan 2012")
    (root / "a/notes.csv").write_text("id,label")
    (root / "a/list").write_text("")
    counts, ignored, _ = look(root)
    assert counts == {"train": {"a": 5, "b": 1}}
    assert ignored == {"no images": 2, "no images (.csv)": 1}


def test_what_programs_leave_behind_is_ignored_and_counted(put, image_file):
    root = put({"a": 1, "b": 1})
    left = {
        "hidden": ["a/.DS_Store", "a/._1.jpg", ".git/objects/12/3", ".cache/x.png"],
        "thumbnails": ["a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "b/.@__thumb/default1.jpg",
                       "a/Thumbs.db", "a/thumbs/1.png", "a/thumb_0.png", "a/0_thumb.png"],
        "of the operating system or file server": ["__MACOSX/a/1.jpg", "$RECYCLE.BIN/$R1.jpg",
                                                   "a/desktop.ini", "#recycle/1.jpg",
                                                   "a/1.jpg:Zone.Identifier"],
        "side-cars of cameras and editors": ["a/IMG_1.xmp", "a/IMG_1.AAE", "a/MVI_1.THM"],
        "camera raw files": ["a/IMG_1.CR2", "a/DSC1.nef"],
        "unfinished or backup copies": ["a/1.jpg.part", "a/1.jpg~", "b/2.png.crdownload"],
    }  # fmt: skip
    for paths in left.values():
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(image_file(9, "JPEG"))
    source = find(str(root), DataConfig())
    assert {why: sorted(names) for why, names in source.ignored.items()} == {
        why: sorted(paths) for why, paths in left.items()
    }
    assert source.splits["train"].count() == 2


def test_pipes_and_links(put):
    root = put({"a": 1, "b": 1})
    os.mkfifo(root / "a/x.png")  # to open it would wait for ever
    os.symlink(root / "a", root / "a/again")
    os.symlink(root / "nowhere", root / "a/gone.png")
    os.symlink(root / "nowhere", root / "a/gone")
    counts, ignored, _ = look(root)
    assert counts == {"train": {"a": 2, "b": 1}}, "the dangling link is meant to be an image"
    assert ignored == {
        "neither files nor folders": 1,
        "links to a folder above them": 1,
        "no images": 1,
    }


def test_names_that_are_one_in_unicode(put):
    root = put({"Zaunko\u0308nig": 2, "Zaunk\u00f6nig": 2, "b": 1})
    raw = find(str(root), DataConfig()).splits["train"].read()
    assert raw.class_names == ["Zaunk\u00f6nig", "b"]
    ids = [found.image_id for found in raw.examples()]
    assert len(set(ids)) == 5


def test_a_thumbnail_folder_may_be_a_class(put):
    assert look(put({"thumbs": 2, "fists": 2}))[0] == {"train": {"fists": 2, "thumbs": 2}}


def test_a_training_folder_of_any_name_beside_a_test_folder_with_the_same_classes(put):
    counts, _, notes = look(put(below("images") | below("test", {"cat": 1})))
    assert counts == {"train": PET, "test": {"cat": 1}}
    assert notes == [
        "images is taken for the training split, because it has folders of classes and lies beside "
        "test"
    ]
    counts, ignored, notes = look(put({**below("photos"), "test": 4}, "without labels"))
    assert counts == {"train": PET}
    assert ignored == {"in a split without labels": 4}
