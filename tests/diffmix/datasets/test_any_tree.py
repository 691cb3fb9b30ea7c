"""Whatever lies in a folder: classes, splits and counts add up.

Covers `diffmix/datasets/account.py`, `diffmix/datasets/sources.py` and `diffmix/datasets/valid.py`.
"""

import io
import json
import os
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffmix.config import DataConfig
from diffmix.datasets.class_names import plain
from diffmix.datasets.prepare import prepare
from diffmix.errors import UserError

# A tree takes some 30 ms.
PROFILE = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def picture(seed: int, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


PICTURES = [picture(seed, format) for seed in range(12) for format in ("PNG", "JPEG")]
CONTENTS = st.one_of(
    st.sampled_from(PICTURES),
    st.sampled_from([b"", b"text", b"BMW", b"<xmp/>", PICTURES[0][:60], b"\xff\xd8\xff", b"PK"]),
)
ODD_NAMES = ["$", "$$", "{}", "%s", "a\\b", "a_b", "A_B", "Zaunko\u0308nig", "Zaunk\u00f6nig"]
ODD_NAMES += [
    "翠鸟",
    "צפור",
    "007",
    "7",
    "-1",
    "train",
    "Test",
    "val",
    "valid",
    "thumbs",
    "x" * 200,
]
ODD_NAMES += ["#", "a b", "@eaDir", ".git", "__MACOSX", "cat", "Cat", "a\nb", "[/b]", "images"]
NAMES = st.one_of(
    st.sampled_from(ODD_NAMES),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12),
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 250)
STEMS = st.sampled_from(["1", "2", "a#1", "צ", "1.jpg"])
SUFFIXES = st.sampled_from([".png", ".JPG", "", ".txt", ".jpg_large", ".xmp", "~", ".webp"])
LEFT = [".hidden.png", "Thumbs.db", "._1.jpg", "desktop.ini", "thumb_1.png", "IMG.CR2"]
FILE_NAMES = st.one_of(st.builds(str.__add__, STEMS, SUFFIXES), st.sampled_from(LEFT), NAMES)
# Two good images, so that most trees can be used.
FILES = st.builds(
    lambda good, more: {"good 1.png": good[0], "good 2": good[1], **more},
    st.lists(st.sampled_from(PICTURES), min_size=2, max_size=2),
    st.dictionaries(
        FILE_NAMES, CONTENTS | st.dictionaries(FILE_NAMES, CONTENTS, max_size=2), max_size=4
    ),
)
CLASSES = st.dictionaries(NAMES, FILES, min_size=2, max_size=4)
TRAIN, TEST = st.sampled_from(["train", "Train", "TRAINING"]), st.sampled_from(["test", "Eval"])


@st.composite
def splits(draw):
    """Training classes, and test classes of which most have the same names."""
    train = draw(CLASSES)
    names = st.sampled_from(list(train)) | st.sampled_from(list(train)) | NAMES
    return train, draw(st.dictionaries(names, FILES, min_size=1, max_size=3))


def write(root: Path, tree: dict) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, inside in tree.items():
        if isinstance(inside, dict):
            write(root / name, inside)
        else:
            (root / name).write_bytes(inside)


def prepared(tree: dict, **options):
    """The sets of a tree, its account and how many files it has; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "photos")
        try:
            write(root, tree)
        except OSError:  # a folder and a file of one name, or a name that is too long here
            return None
        files = sum(len(names) for _, _, names in os.walk(root))
        config = DataConfig(train=str(root), max_bad_images=100, **options)
        try:
            found = prepare(config, str(Path(folder, "out")))
        except UserError as error:
            if str(error).endswith((".", "?")):
                return None
            raise AssertionError(f"no sentence: {error}") from error
        sets = {name: getattr(found, name) for name in ("train", "val", "test")}
        labels = {
            name: {image_id: real.class_names[label] for image_id, label in
                   zip(real.image_ids, real.labels.tolist(), strict=True)}
            for name, real in sets.items() if real
        }  # fmt: skip
        saved = json.loads(Path(folder, "out/data/data.json").read_text())
        assert saved["account"] == found.account.to_json()
        assert found.account.lines()
        return labels, found.account, files


def adds_up(labels: dict, account, files: int) -> None:
    ids = [image_id for found in labels.values() for image_id in found]
    assert len(set(ids)) == len(ids) == account.used
    left = [*account.ignored.values(), *account.unreadable.values()]
    assert account.used + sum(each.count for each in left) == account.found == files


@PROFILE
@given(CLASSES)
@example({"cat": {"1.png": PICTURES[0], "2.png": PICTURES[2]}, "dog": {"1.png": PICTURES[4]}})
def test_class_folders(tree):
    found = prepared(tree)
    if found:
        adds_up(*found)
        for image_id, name in [pair for labels in found[0].values() for pair in labels.items()]:
            assert unicodedata.normalize("NFC", image_id.split("/")[0]) == name


@PROFILE
@given(TRAIN, TEST, splits(), st.booleans(), st.dictionaries(NAMES, CONTENTS, max_size=2))
def test_split_folders(train, test, classes, drop, loose):
    tree = {**loose, train: classes[0], test: classes[1]}
    found = prepared(tree, unknown_classes="leave_out", drop_duplicates=drop)
    if found:
        adds_up(*found)
        for name, labels in found[0].items():
            for image_id, class_name in labels.items():
                split, folder = unicodedata.normalize("NFC", image_id).split("/")[:2]
                assert split in (train, test)
                # Where there is no test image, a part of the training images is the test set.
                drawn = "of each class of" in found[1].splits["test"]
                assert (split == test) == (name == "test" and not drawn)
                assert plain(folder) == plain(class_name)


@PROFILE
@given(
    st.lists(
        st.tuples(
            st.lists(NAMES, min_size=1, max_size=3, unique=True),
            st.lists(st.integers(0, 2), min_size=1),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_shards_with_names_of_their_own(shards):
    """Each row's class is the name that its own shard has for its number."""
    expected, tables = [], {}
    for number, (names, labels) in enumerate(shards):
        labels = [label % len(names) for label in labels]
        expected += [unicodedata.normalize("NFC", names[label]) for label in labels]
        feature = {"names": names, "_type": "ClassLabel"}
        metadata = json.dumps({"info": {"features": {"label": feature}}})
        schema = pa.schema({"image": pa.binary(), "label": pa.int64()}, {"huggingface": metadata})
        columns = {"image": [PICTURES[0]] * len(labels), "label": labels}
        file = io.BytesIO()
        pq.write_table(pa.table(columns, schema=schema), file)
        tables[f"train-{number:05d}-of-{len(shards):05d}.parquet"] = file.getvalue()
    found = prepared(tables, test_fraction=0.5)
    if found:
        labels, account, _ = found
        rows = {image_id: name for each in labels.values() for image_id, name in each.items()}
        assert [rows[f"train/{row}"] for row in range(len(expected))] == expected
        assert account.used == account.found == len(expected)
