"""The reference implementation's folder: its code can read ours, and we can read its own."""

import csv
import dataclasses
import io
import math
import os
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from diffmix.errors import UserError
from diffmix.formats import detect, reference
from diffmix.storage import Folder


@pytest.fixture
def their_names(class_names) -> list[str]:
    """All but the name with underscores, which the reference implementation turns into spaces."""
    return [name for name in class_names if "_" not in name]


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_round_trip(tmp_path, class_names, make_mixes, kept, format):
    folder, mixes = Folder(str(tmp_path / "ü")), make_mixes(format)
    assert reference.write(folder, iter(mixes), class_names) == 23
    assert detect(folder) == "reference"
    for found, mix in zip(reference.read(folder), mixes, strict=True):
        expected, got = kept(mix), kept(found)
        if format == "JPEG":  # other bytes, the same pixels
            assert got["load"].startswith(b"\x89PNG")
            before, after = (Image.open(io.BytesIO(mix.pop("load"))) for mix in (expected, got))
            assert np.array_equal(np.asarray(before), np.asarray(after))
        assert got == expected


def test_the_references_data_set_finds_everything(tmp_path, their_names, make_mixes):
    """`dataset/base.py` reads these columns and finds these class names."""
    mixes = [mix for mix in make_mixes() if {mix.source, mix.target} <= set(their_names)]
    reference.write(Folder(str(tmp_path)), mixes, their_names)
    class2label = {name.replace("/", " "): label for label, name in enumerate(their_names)}
    rows = list(csv.DictReader((tmp_path / "meta.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == len(mixes) > 10
    for row, mix in zip(rows, mixes, strict=True):
        source, target = (class2label[row[f"{which} Directory"]] for which in ("First", "Second"))
        image = Image.open(os.path.join(tmp_path, "data", row["Path"])).convert("RGB")
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(mix.load()))))
        assert (their_names[source], their_names[target]) == (mix.source, mix.target)
        assert math.isclose(float(row["Strength"]), mix.strength, rel_tol=1e-6)


def test_the_references_own_table_can_be_written_again_from_the_names(
    tmp_path, class_names, make_mixes
):
    """`scripts/sample_mp.py` makes meta.csv from file names by this pattern: it gives our table."""
    reference.write(Folder(str(tmp_path)), make_mixes(), class_names)
    rows = list(csv.DictReader((tmp_path / "meta.csv").open(encoding="utf-8", newline="")))
    for row in rows:
        directory, file = row["Path"].split("/")
        match = re.match(r"(.+)-(\d+)-(.+).png", file)
        assert directory.replace("_", " ") == row["First Directory"]
        assert match.group(1).replace("_", " ") == row["Second Directory"]
        assert int(match.group(2)) == int(row["Number"])
        assert float(match.group(3)) == float(row["Strength"])


def theirs(folder, table: bool) -> None:
    """A folder as the reference implementation writes it.

    Two files have the same number, as after its compose script.
    """
    files = [
        "F_A-18/707-320-000002-0.7.png",
        "F_A-18/F_A-18-000001-0.3.png",
        "707-320/F_A-18-000002-1.0.png",
    ]
    for number, name in enumerate(files):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / "data" / name)
    (folder / "data" / "empty_class").mkdir()
    if table:
        lines = ["First Directory,Second Directory,Number,Strength,Path"]
        lines += [
            "F A-18,707-320,2,0.7," + files[0],
            "F A-18,F A-18,1,0.3," + files[1],
            "707-320,F A-18,2,1.0," + files[2],
        ]
        (folder / "meta.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("table", [True, False])
def test_a_folder_of_the_reference(tmp_path, table):
    theirs(tmp_path, table)
    found = list(reference.read(Folder(str(tmp_path))))
    space = " " if table else "_"
    assert [(mix.mix_id, mix.source, mix.target, mix.strength) for mix in found] == [
        (1, f"F{space}A-18", f"F{space}A-18", 0.3),
        (2, "707-320", f"F{space}A-18", 1.0),
        (2, f"F{space}A-18", "707-320", 0.7),
    ]
    assert [Image.open(io.BytesIO(mix.load())).getpixel((0, 0))[0] for mix in found] == [1, 2, 0]
    assert {(mix.source_id, mix.seed, mix.score, mix.accepted) for mix in found} == {
        ("", None, None, True)
    }


def test_rows_that_a_filter_removed_stay_out(tmp_path):
    theirs(tmp_path, True)
    lines = (tmp_path / "meta.csv").read_text().splitlines()
    (tmp_path / "meta.csv").write_text("\n".join(lines[:2]))
    assert [mix.target for mix in reference.read(Folder(str(tmp_path)))] == ["707-320"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("a,b,x,0.7,a/b-1-0.7.png", "Line 2 .* cannot be read"),
        ("a,b,1,7,a/b-1-0.7.png", "has the strength 7"),
        ("a,b", "Line 2 .* cannot be read"),
        ("a,b,1,0.7,a/b-1-0.7.png", r"a/b-1-0\.7\.png cannot be read, but meta\.csv names it"),
    ],
)
def test_a_broken_table(tmp_path, line, sentence):
    head = "First Directory,Second Directory,Number,Strength,Path"
    (tmp_path / "meta.csv").write_text(f"{head}\n{line}")
    with pytest.raises(UserError, match=sentence):
        [mix.load() for mix in reference.read(Folder(str(tmp_path)))]


def test_another_programs_table(tmp_path):
    (tmp_path / "meta.csv").write_text("file,label\n")
    with pytest.raises(UserError, match="has no column 'First Directory'"):
        list(reference.read(Folder(str(tmp_path))))


def test_a_file_with_another_name(tmp_path):
    theirs(tmp_path, False)
    (tmp_path / "data" / "707-320" / "holiday.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"holiday\.png is not named"):
        list(reference.read(Folder(str(tmp_path))))


def test_stray_files_are_left_out_and_said(tmp_path, caplog):
    theirs(tmp_path, False)
    (tmp_path / "data" / "notes.txt").write_text("")
    (tmp_path / "data" / "Thumbs.db").write_text("")
    (tmp_path / "data" / ".DS_Store").write_text("")
    assert len(list(reference.read(Folder(str(tmp_path))))) == 3
    assert caplog.messages == [
        f"2 files in {tmp_path}/data are left out, because they are in no class's folder "
        "(Thumbs.db)."
    ]


def test_a_folder_called_data_is_not_enough(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_text("")
    assert detect(Folder(str(tmp_path))) is None


AWKWARD = [
    "$5_to_$10",
    "a\\b",
    "50 %",
    "{0}",
    "ציפור",
    "007",
    "Fox",
    "fox",
    unicodedata.normalize("NFC", "Café"),
    unicodedata.normalize("NFD", "Café"),
    "two\nlines",
    'a "quoted", one',
    "x" * 220,
]


@pytest.mark.parametrize("table", [True, False])
def test_awkward_class_names(tmp_path, make_mixes, table):
    made = [
        dataclasses.replace(mix, source=AWKWARD[i % 13], target=AWKWARD[(i + 3) % 13])
        for i, mix in enumerate(make_mixes())
    ]
    folder = Folder(str(tmp_path))
    reference.write(folder, made, AWKWARD)
    if not table:
        (tmp_path / "meta.csv").unlink()
    found = list(reference.read(folder))
    assert [mix.load() for mix in found] == [mix.load() for mix in made]
    spelled = str if table else reference.directory
    for which in ("source", "target"):
        expected = [spelled(getattr(mix, which)) for mix in made]
        assert [getattr(mix, which) for mix in found] == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "ü" * 120])
def test_classes_that_can_have_no_folder(tmp_path, make_mixes, name):
    with pytest.raises(UserError, match=r"The class .* export to imagefolder or webdataset"):
        reference.write(Folder(str(tmp_path)), make_mixes(), ["lynx", name])
    assert list(tmp_path.iterdir()) == []


def test_classes_that_would_share_a_folder(tmp_path, make_mixes):
    with pytest.raises(UserError, match="'F/A-18' and 'F A-18' would share the folder F_A-18"):
        reference.write(Folder(str(tmp_path)), make_mixes(), ["F/A-18", "lynx", "F A-18"])
