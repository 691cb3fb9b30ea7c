"""Parquet files in the layouts of `datasets` and of the hub, and labels in several files.

Covers `diffmix/datasets/forms/table.py` too.
"""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffmix.config import DataConfig
from diffmix.datasets.raw import Unlabeled
from diffmix.datasets.readers import find
from diffmix.errors import UserError


@pytest.fixture
def put(tmp_path, image_file):
    """A function that writes `{file: labels}` as Parquet files of a new folder and gives its path.

    Labels are a list, or a list and the class names of `datasets`. No two rows have one image.
    """

    def make(files: dict[str, list | tuple[list, list[str] | None]], name: str = "set"):
        seed = 0
        for file, labels in files.items():
            labels, names = labels if isinstance(labels, tuple) else (labels, None)
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            images = [image_file(seed + row) for row in range(len(labels))]
            seed += len(labels)
            table = pa.table({"image": images, "label": labels})
            if names is not None:
                features = {"label": {"names": names, "_type": "ClassLabel"}}
                text = json.dumps({"info": {"features": features}})
                table = table.replace_schema_metadata({"huggingface": text})
            pq.write_table(table, path)
        return tmp_path / name

    return make


def look(root, **options):
    """Each split's class names, row by row; what is ignored; and the notes."""
    source = find(str(root), DataConfig(**options))
    raws = {name: split.read() for name, split in source.splits.items()}
    rows = {
        name: [raw.class_names[found.label] for found in raw.examples()]
        for name, raw in raws.items()
    }
    notes = [*source.notes, *(note for raw in raws.values() for note in raw.notes)]
    return rows, source.ignored, notes


@pytest.mark.parametrize(
    "files",
    [
        ["plain_text/train-00000-of-00001", "plain_text/test-00000-of-00001"],
        ["default/train/0000", "default/test/0000"],
        ["default/partial-train/0000", "default/partial-test/0000"],
        ["data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"],
        ["train", "test"],
        ["training", "evaluation"],
        ["train/part.0", "testing/part.0"],
        ["cifar-train", "cifar-eval"],
        ["data/validation-00000-of-00001", "data/train-00000-of-00001"],
        ["dev", "train"],
        ["0", "1"],
    ],
)
def test_splits_are_those_of_datasets(put, tmp_path, files):
    root = put({f"{file}.parquet": [row % 2 for row in range(4)] for file in files})
    theirs = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "cache"))
    words = {"train": "train", "validation": "val", "test": "test"}
    assert {name: len(rows) for name, rows in look(root)[0].items()} == {
        words[name]: len(split) for name, split in theirs.items()
    }


def test_upper_case_is_known_too(put):
    rows, _, _ = look(put({"TRAIN.PARQUET": [1, 2], "Test.parquet": [1]}))
    assert rows == {"train": ["1", "2"], "test": ["1"]}


def test_ids_keep_the_spelling_of_the_file(put):
    source = find(str(put({"train.parquet": [1], "valid.parquet": [1, 2]})), DataConfig())
    ids = [found.image_id for found in source.splits["val"].read().examples()]
    assert ids == ["valid/0", "valid/1"]


def test_files_of_no_split_are_left_alone_and_counted(put):
    root = put({"train.parquet": [1, 2], "test.parquet": [1], "more.parquet": [1, 1, 1]})
    (root / "README.md").write_text("read me")
    (root / ".cache").mkdir()
    (root / ".cache/x").write_text("")
    rows, ignored, notes = look(root)
    assert {name: len(found) for name, found in rows.items()} == {"train": 2, "test": 1}
    assert ignored == {
        "beside the Parquet files (.md)": ["README.md"],
        "hidden": [".cache/x"],
        "Parquet files of no split": ["more.parquet"],
    }
    assert notes == ["more.parquet: of no split that is known here, so their 3 rows are left alone"]


def test_a_configuration_is_chosen_by_name(put):
    root = put({f"{name}/{split}.parquet": [1] * 2 for name in "ab" for split in ("train", "test")})
    with pytest.raises(UserError, match=r"several configurations, a, b; choose one with --data"):
        find(str(root), DataConfig())
    source = find(str(root), DataConfig(configuration="b"))
    assert source.splits["train"].taken_from == "b/train.parquet"
    with pytest.raises(UserError, match=r"no configuration 'c'; --data\.configuration may be"):
        find(str(root), DataConfig(configuration="c"))


def test_a_readme_names_the_files(put):
    root = put({"a.parquet": [1, 2], "b.parquet": [1], "c.parquet": [1, 1]})
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: a.parquet\n  - split: test\n    path: b.parquet\n---\n"
    )
    rows, ignored, _ = look(root)
    assert {name: len(found) for name, found in rows.items()} == {"train": 2, "test": 1}
    assert ignored["Parquet files of no split"] == ["c.parquet"]


def test_a_missing_part_is_said(put):
    _, _, notes = look(
        put({"train-00000-of-00003.parquet": [1], "train-00002-of-00003.parquet": [2]})
    )
    assert notes == ["train has 2 of its 3 parts"]


def test_class_folders_with_a_table_of_something_else(put, image_file):
    root = put({"a/1.parquet": [1]})
    pq.write_table(pa.table({"vector": [1.0]}), root / "a/1.parquet")
    for name in "ab":
        (root / name).mkdir(exist_ok=True)
        (root / name / "1.png").write_bytes(image_file(ord(name)))
    rows, ignored, _ = look(root)
    assert rows == {"train": ["a", "b"]}
    assert ignored == {"no images (.parquet)": ["a/1.parquet"]}


def test_images_beside_tables_are_counted_unless_rows_name_them(put, tmp_path, image_file):
    root = tmp_path / "set"
    root.mkdir()
    for name in ("used.png", "unused.png"):
        (root / name).write_bytes(image_file(1))
    pq.write_table(
        pa.table({"image": [{"bytes": None, "path": "used.png"}], "label": ["a"]}),
        root / "x.parquet",
    )
    assert look(root)[1] == {"beside the Parquet files (.png)": ["unused.png"]}


# Labels


def test_each_file_has_names_of_its_own(put):
    names = {
        "train-0.parquet": ([0, 1], ["ant", "bee"]),
        "train-1.parquet": ([1, 0], ["bee", "fly"]),
    }
    assert look(put(names))[0] == {"train": ["ant", "bee", "fly", "bee"]}


def test_names_and_numbers_with_names_fit_together(put):
    files = {"0.parquet": ([1, 0], ["ant", "bee"]), "1.parquet": ["bee", "Wu\u0308rger"]}
    assert look(put(files))[0] == {"train": ["bee", "ant", "bee", "Würger"]}


def test_numbers_without_names_beside_numbers_with_names_are_refused(put):
    files = {"0.parquet": ([1, 0], ["ant", "bee"]), "1.parquet": [1, 0]}
    with pytest.raises(UserError, match="one of the two lacks class names for its integers"):
        look(put(files))


def test_numbers_with_gaps_and_below_zero(put):
    rows, _, notes = look(put({"0.parquet": [10, -1, 2, -1]}))
    assert rows == {"train": ["10", "-1", "2", "-1"]}
    assert notes[0].startswith("2 rows of ")
    assert notes[0].endswith(" have the label -1, taken for a class")


def test_one_name_twice_is_one_class(put):
    assert look(put({"0.parquet": ([0, 1, 2], ["a", "b", "a"])}))[0] == {"train": ["a", "b", "a"]}


@pytest.mark.parametrize(
    "labels", [([-1, -1], ["a", "b"]), (["", ""], None), ([5, 5], ["a", "b"]), ([-1, -1], None)]
)
def test_a_split_without_any_label(put, labels):
    source = find(
        str(put({"train.parquet": ([0, 1], ["a", "b"]), "test.parquet": labels})), DataConfig()
    )
    with pytest.raises(Unlabeled, match="2 of 2 rows have none"):
        source.splits["test"].read()


def test_one_row_without_a_label_is_refused(put):
    with pytest.raises(UserError, match=r"Row 1 of .* its 'label' is -1 \(1 of 2 rows have none\)"):
        look(put({"0.parquet": ([0, -1], ["a", "b"])}))


def test_foreign_metadata(put, tmp_path):
    root = put({"0.parquet": [1, 2]})
    table = pq.read_table(root / "0.parquet").replace_schema_metadata({"huggingface": "{nonsense"})
    pq.write_table(table, root / "0.parquet")
    assert look(root)[0] == {"train": ["1", "2"]}
