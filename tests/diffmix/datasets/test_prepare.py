import json
import os
import shutil
from collections import Counter
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffmix import images, storage
from diffmix.config import DataConfig
from diffmix.datasets.named import diffda
from diffmix.datasets.prepare import prepare
from diffmix.datasets.raw import file_stamp
from diffmix.datasets.readers import find
from diffmix.datasets.real import Example, RealSet
from diffmix.datasets.splits import few_shot, stratified
from diffmix.errors import UserError
from diffmix.nano import data


def counts(real):
    return np.bincount(real.labels, minlength=len(real.class_names)).tolist()


@pytest.fixture
def run(tmp_path):
    """`prepare` into one run folder with the options given."""
    return lambda out="out", **options: prepare(
        DataConfig(**{name: plain(value) for name, value in options.items()}), str(tmp_path / out)
    )


def plain(value):
    return str(value) if isinstance(value, os.PathLike) else value


def test_a_plain_folder_is_split(image_folder, run, tmp_path):
    prepared = run(train=image_folder({"a": 10, "b": 20, "c": 1}), superclass="bird")
    assert [counts(real) for real in (prepared.train, prepared.val, prepared.test)] == [
        [7, 14, 1],
        [1, 2, 0],
        [2, 4, 0],
    ]
    ids = [set(real.image_ids) for real in (prepared.train, prepared.val, prepared.test)]
    assert len(set.union(*ids)) == 31 == sum(map(len, ids))
    for real in (prepared.train, prepared.val, prepared.test):
        assert (real.class_names, real.superclass) == (["a", "b", "c"], "bird")
        for index, name in enumerate(real.image_ids):
            assert real.image_bytes(index) == (tmp_path / "photos" / name).read_bytes()
            assert real.class_names[real.labels[index]] == name[0]
    assert sorted(os.listdir(tmp_path / "out/data")) == [
        "data.json",
        "test.arrow",
        "train.arrow",
        "val.arrow",
    ]


def test_class_names_of_any_script(image_folder, run):
    names = ["Zaunkönig", "翠鸟", "house sparrow", "Größe ∕ 5"]
    prepared = run(train=image_folder(dict.fromkeys(names, 3)))
    assert prepared.train.class_names == prepared.test.class_names == sorted(names)
    assert prepared.train.superclass == "object"


def test_own_splits_are_used_as_they_are(image_folder, run):
    for name, count in (("train", 4), ("test", 2), ("val", 3)):
        root = image_folder({f"{name}/a": count, f"{name}/b": count})
    prepared = run(train=root, val_fraction=0.5)
    assert [counts(real) for real in (prepared.train, prepared.val, prepared.test)] == [
        [4, 4],
        [3, 3],
        [2, 2],
    ]


def test_validation_images_alone_are_the_test_set(image_folder, run):
    for name, count in (("train", 4), ("val", 3)):
        root = image_folder({f"{name}/a": count, f"{name}/b": count})
    prepared = run(train=root, val_fraction=0.25)
    assert [counts(real) for real in (prepared.train, prepared.val, prepared.test)] == [
        [3, 3],
        [1, 1],
        [3, 3],
    ]


def test_separate_test_folder(image_folder, run):
    prepared = run(
        train=image_folder({"a": 3, "b": 3, "c": 3}),
        test=image_folder({"c": 2, "b": 1}, "test photos"),
        val_fraction=0,
    )
    assert counts(prepared.train) == [3, 3, 3]
    assert prepared.val is None
    assert counts(prepared.test) == [0, 1, 2], "labels are those of the training classes"


def test_a_test_class_that_training_lacks(image_folder, run):
    options = {
        "train": image_folder({"a": 3, "b": 3}),
        "test": image_folder({"a": 1, "x": 1}, "test photos"),
    }
    with pytest.raises(
        UserError, match="test photos has the class 'x', which the training images lack"
    ):
        run(**options)
    prepared = run(**options, unknown_classes="leave_out")
    assert counts(prepared.test) == [1, 0]
    left = prepared.account.ignored["test images of classes that training lacks"]
    assert left.names == ["x/00.png"]


def test_test_classes_are_matched_by_name(image_folder, run):
    prepared = run(
        train=image_folder({"001.Cat": 3, "dog": 3}),
        test=image_folder({"cat": 2, "Dog": 1}, "test photos"),
        val_fraction=0,
    )
    assert counts(prepared.test) == [2, 1]
    assert [note.partition(" of ")[0] for note in prepared.account.notes[:2]] == ["'Dog'", "'cat'"]


def test_nano(run, monkeypatch):
    monkeypatch.setattr(
        data, "examples", lambda split, examples=data.examples: islice(examples(split), 100)
    )  # all 900 take seconds
    prepared = run(train="nano", shots=2)
    assert prepared.train.superclass == "digit"
    assert counts(prepared.train) == [2] * 10
    assert prepared.val is not None
    assert len(prepared.val) > 20
    assert set(prepared.test.groups) == {"china", "flower"}
    assert images.decode(prepared.test.image_bytes(0)).size == (32, 32)


def test_seed_and_fractions_decide(image_folder, run):
    root = image_folder({"a": 10, "b": 10})
    base, same, other = run(train=root), run("same", train=root), run("other", train=root, seed=1)
    for name in ("train", "val", "test"):
        assert getattr(base, name).image_ids == getattr(same, name).image_ids
        assert getattr(base, name).fingerprint == getattr(same, name).fingerprint
        assert getattr(base, name).image_ids != getattr(other, name).image_ids
    larger = run("larger", train=root, test_fraction=0.5, val_fraction=0.4)
    assert [len(real) for real in (larger.train, larger.val, larger.test)] == [6, 4, 10]


def test_shots_with_repeats_have_unique_ids(image_folder, run):
    prepared = run(
        train=image_folder({"a": 10, "b": 2}),
        shots=6,
        test=image_folder({"a": 1, "b": 1}, "test"),
        val_fraction=0,
    )
    assert counts(prepared.train) == [6, 6]
    names = [name for name in prepared.train.image_ids if name.startswith("b/")]
    assert len(set(names)) == 6
    originals = Counter(name.partition("#")[0] for name in names)
    for name, times in originals.items():
        assert [f"{name}#{k}" if k else name for k in range(times)] == sorted(
            n for n in names if n.startswith(name)
        )
    index = prepared.train.index_of(names[-1])
    assert prepared.train.image_bytes(index) == prepared.train.image_bytes(
        prepared.train.index_of(names[-1].partition("#")[0])
    )


def test_imbalance(image_folder, run):
    options = {"test": image_folder({"a": 1}, "test"), "val_fraction": 0, "imbalance_factor": 0.1}
    prepared = run(train=image_folder({"a": 10, "b": 20, "c": 30}), **options)
    assert counts(prepared.train) == [1, 2, 20]  # mean 20; ranks c, b, a: 20, 20 * .1, 20 * .1 ** 2
    with pytest.raises(UserError, match="exclude each other"):
        run(train="nano", shots=1, imbalance_factor=0.1)


# What is told


def test_what_was_taken_and_left_is_kept_and_told(image_folder, run, image_file, tmp_path, caplog):
    root = image_folder({"Train/a": 10, "Train/b": 10, "Test": 3})
    (root / "Train/a/.DS_Store").write_bytes(b"")
    (root / "Train/a/IMG.xmp").write_bytes(b"<x/>")
    (root / "Train/b/cut.png").write_bytes(image_file(0, side=64)[:500])
    account = run(train=root, shots=4).account
    assert account.splits == {
        "train": f"{root}, Train/",
        "test": f"20% of each class of {root}, Train/",
        "val": f"10% of each class of {root}, Train/",
    }
    assert (account.found, account.used) == (26, 14)  # 8 shots, 4 test and 2 validation images
    assert {why: left.count for why, left in account.ignored.items()} == {
        "not drawn for --data.shots": 6,
        "in a split without labels": 3,
        "hidden": 1,
        "side-cars of cameras and editors": 1,
    }
    assert {why: left.names for why, left in account.unreadable.items()} == {
        "broken or truncated": ["Train/b/cut.png"]
    }
    assert json.loads((tmp_path / "out/data/data.json").read_text())["account"] == account.to_json()
    assert "its 3 images have no labels and are left alone" in caplog.text
    assert run(train=root, shots=4).account == account
    lines = account.lines()
    assert lines[3:7] == [
        "images used: 14 of 26 files and rows",
        "ignored: 11",
        "  6 not drawn for --data.shots: " + lines[5].partition(": ")[2],
        "  3 in a split without labels: Test/00.png, Test/01.png, Test/02.png",
    ]


def test_duplicates_are_told_and_can_be_dropped(image_folder, run, image_file):
    root = image_folder({"train/a": 4, "train/b": 4, "test/a": 1, "test/b": 1, "val/a": 2})
    (root / "test/a/twin.png").write_bytes((root / "train/b/00.png").read_bytes())
    with Image.open(root / "train/a/01.png") as image:
        image.save(root / "test/a/pixels.bmp")
        image.save(root / "val/a/pixels.bmp")
    prepared = run(train=root)
    assert (len(prepared.test), len(prepared.val)) == (4, 3)
    told = "; --data.drop_duplicates True leaves them out"
    assert prepared.account.notes == [
        "test images that are training images too: 2 (1 with the same bytes, 1 with the same "
        f"pixels in another file), such as 'test/a/pixels.bmp' and 'train/a/01.png'{told}",
        "validation images that are training images too: 1 (0 with the same bytes, 1 with the same "
        f"pixels in another file), such as 'val/a/pixels.bmp' and 'train/a/01.png'{told}",
    ]
    dropped = run("dropped", train=root, drop_duplicates=True)
    assert (len(dropped.test), len(dropped.val)) == (2, 2)
    assert len(dropped.train) == 8
    assert dropped.account.ignored["test images that are training images too"].count == 2


def test_one_image_in_two_training_classes_is_told(image_folder, run):
    root = image_folder({"a": 4, "b": 4})
    (root / "a/twin.png").write_bytes((root / "b/00.png").read_bytes())
    notes = run(train=root, test_fraction=0.1).account.notes
    assert any("that are in another class too: 1 " in note for note in notes)


def test_classes_that_differ_in_case_alone_are_told(image_folder, run):
    prepared = run(train=image_folder({"Cat": 4, "cat": 4, "dog": 4}))
    assert prepared.train.class_names == ["Cat", "cat", "dog"]
    assert prepared.account.notes[0].startswith("'Cat', 'cat' are 2 classes, though")


def test_unlabeled_test_rows_are_left_alone(run, image_file, tmp_path):
    for number, (name, labels) in enumerate({"train": ["a", "b"] * 6, "test": [None] * 3}.items()):
        images = [image_file(100 * number + row) for row in range(len(labels))]
        table = pa.table({"image": images, "label": pa.array(labels, pa.string())})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    for name in ("train", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        shutil.move(tmp_path / f"{name}.parquet", tmp_path / "set")
    account = run(train=tmp_path / "set").account
    assert account.ignored["in a test split without labels"].count == 3
    assert (account.used, account.found) == (12, 15)
    with pytest.raises(UserError, match="3 of 3 rows have none"):
        run("other", train=tmp_path / "set", test=tmp_path / "set/test.parquet")


def test_pages_that_are_not_used_are_told(image_folder, run, tmp_path):
    root = image_folder({"a": 5, "b": 5})
    pages = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for name in ("scan.tif", "film.gif"):
        pages[0].save(root / "a" / name, save_all=True, append_images=pages[1:])
    assert run(train=root).account.notes == [
        "images with several pages or frames, of which the first is used: 2, such as "
        "'a/film.gif', 'a/scan.tif'"
    ]


def test_an_unused_test_split_is_counted(image_folder, run):
    root = image_folder({"train/a": 4, "train/b": 4, "test/a": 3})
    account = run(train=root, test=image_folder({"a": 2}, "other")).account
    assert account.ignored["in an unused test split"].count == 3
    assert (account.used, account.found) == (10, 13)


def test_test_images_and_run_folder_among_the_training_images(image_folder, run, tmp_path):
    root = image_folder({"a": 5, "b": 5, "holdout/a": 2})
    for _ in range(2):
        prepared = run("photos/run", train=root, test=root / "holdout")
        assert prepared.train.class_names == ["a", "b"]
        assert len(prepared.test) == 2
        (tmp_path / "photos/run/mixes").mkdir(exist_ok=True)
        shutil.copy(root / "a/00.png", tmp_path / "photos/run/mixes/mix.png")


def test_shots_as_the_publisher_draws_them(published, run):
    root = published("diffda-cub")
    prepared = run(train=f"diffda-cub:{root}", shots=1, seed=2, val_fraction=0)
    labels = np.array([0, 0, 1, 1])  # the training images in the order of the lists
    ids = find(f"diffda-cub:{root}", DataConfig()).splits["train"].read().examples()
    names = [found.image_id for found in ids]
    assert prepared.train.image_ids == [names[index] for index in diffda.few_shot(labels, 1, 2)]


# Bad input


def break_images(root, image_file):
    (root / "a/empty.png").write_bytes(b"")
    (root / "a/text.jpg").write_bytes(b"not an image")
    (root / "a/cut.png").write_bytes(image_file(0, side=64)[:500])
    os.symlink(root / "nowhere", root / "a/link.png")


def test_bad_images_are_named_counted_and_skipped(image_folder, run, image_file, caplog, tmp_path):
    root = image_folder({"a": 5, "b": 5})
    break_images(root, image_file)
    prepared = run(train=root, max_bad_images=4)
    assert len(prepared.train) + len(prepared.val) + len(prepared.test) == 10
    skipped = json.loads((tmp_path / "out/data/data.json").read_text())["skipped"]
    reasons = {row["image_id"]: row["reason"] for row in skipped}
    assert sorted(reasons) == ["a/cut.png", "a/empty.png", "a/link.png", "a/text.jpg"]
    assert reasons["a/empty.png"] == "empty file"
    assert reasons["a/link.png"] == "cannot be opened: No such file or directory"
    for name, reason in reasons.items():
        assert f"skipped {name}: {reason}" in caplog.messages


def test_too_many_bad_images(image_folder, run, image_file, tmp_path):
    root = image_folder({"a": 5, "b": 5})
    break_images(root, image_file)
    with pytest.raises(
        UserError, match=r"More than 3 images .* 'a/text.jpg' \(not a JPEG.*max_bad_images"
    ):
        run(train=root, max_bad_images=3)
    assert os.listdir(tmp_path / "out/data") == []


def test_bomb(image_folder, run, image_file):
    root = image_folder({"a": 5, "b": 5})
    (root / "a/large.png").write_bytes(image_file(0, side=40))
    with pytest.raises(UserError, match=r"'a/large.png' \(40 x 40 pixels, more than 1599\)"):
        run(train=root, max_pixels=1599, max_bad_images=0)
    prepared = run(train=root, max_pixels=1600)
    sets = (prepared.train, prepared.val, prepared.test)
    assert "a/large.png" in [name for real in sets for name in real.image_ids]


def test_class_without_a_readable_image(image_folder, run):
    root = image_folder({"a": 5, "Zaunkönig": 1})
    (root / "Zaunkönig/00.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"The class 'Zaunkönig' of .*photos has no readable image"):
        run(train=root)


def test_test_set_without_a_readable_image(image_folder, run):
    other = image_folder({"a": 1}, "test")
    (other / "a/00.png").write_bytes(b"no")
    with pytest.raises(UserError, match="test has no readable image"):
        run(train=image_folder({"a": 5, "b": 5}), test=other)


def test_one_class(image_folder, run):
    with pytest.raises(UserError, match="has only the class 'a'; at least two"):
        run(train=image_folder({"a": 5}))


def test_no_images(run, tmp_path):
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int32())}),
        tmp_path / "x.parquet",
    )
    with pytest.raises(UserError, match="has no images"):
        run(train=tmp_path / "x.parquet")


def test_nothing_given(run):
    with pytest.raises(UserError, match=r"--data.train is missing"):
        run()


def test_no_test_images(image_folder, run):
    with pytest.raises(UserError, match=r"no test images and --data.test_fraction is 0"):
        run(train=image_folder({"a": 5, "b": 5}), test_fraction=0.0)
    with pytest.raises(UserError, match="too few images to hold out a test set"):
        run(train=image_folder({"c": 1, "d": 1}, "few"))


def test_ids_that_occur_twice(run, image_file, tmp_path):
    table = {"image": [image_file(0), image_file(1)], "label": ["a", "b"], "image_id": ["x", "x"]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="The image id 'x' occurs twice"):
        run(train=tmp_path / "x.parquet")


def test_out_that_cannot_be_written(image_folder, run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        UserError, match=r"data/data\.json cannot be read: Not a directory; use another --out"
    ):
        run("file/run", train=image_folder({"a": 5, "b": 5}))


def test_no_space(image_folder, run, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.OSFile", full)
    with pytest.raises(
        UserError, match=r"cannot be written to .*out/data: No space left on device"
    ):
        run(train=image_folder({"a": 5, "b": 5}))


# A second run


def test_a_run_folder_of_version_0_1_is_resumed(image_folder, run, tmp_path):
    """It knew no option for duplicates, held validation images out before it drew shots, and read
    files by their suffixes alone.
    """
    root = image_folder({"a": 10, "b": 10})
    labels = np.repeat([0, 1], 10)
    ids = np.array([f"{name}/{index:02d}.png" for name in "ab" for index in range(10)])
    kept, test = stratified(labels, 0.2, 0)
    rest, val = stratified(labels[kept], 0.1, 0)
    shots = few_shot(labels[kept][rest], 3, 0)
    file = tmp_path / "out/data/data.json"
    run(train=root, shots=3)
    saved = json.loads(file.read_text())
    for name, indices in (("train", kept[rest][shots]), ("val", kept[val]), ("test", test)):
        examples = [
            Example(ids[index], (root / ids[index]).read_bytes(), int(labels[index]))
            for index in indices
        ]
        written = RealSet.write(f"{tmp_path}/out/data/{name}.arrow", examples, ["a", "b"], "object")
        saved["sizes"][name], saved["fingerprints"][name] = len(written), written.fingerprint
    saved["stamps"] = {"train": file_stamp([str(root / name) for name in ids], str(root))}
    for key in ("drop_duplicates", "unknown_classes", "configuration"):
        del saved["settings"][key]
    del saved["account"], saved["held_out_first"]
    file.write_text(json.dumps(saved))
    (root / "a/thumbs").mkdir()
    shutil.copy(root / "a/00.png", root / "a/00")  # an image that 0.1 did not read
    prepared = run(train=root, shots=3)
    assert prepared.account is None
    assert sorted(prepared.train.image_ids) == sorted(ids[kept[rest][shots]])
    (root / "a/00").unlink()
    os.utime(root / "a/00.png", (1, 1))
    prepared = run(train=root, shots=3)
    assert sorted(prepared.train.image_ids) == sorted(ids[kept[rest][shots]])
    assert prepared.account is not None


@pytest.fixture
def decoded(monkeypatch):
    """The images that were decoded, one entry each."""
    seen = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *args: seen.append(args) or decode(*args))
    return seen


def test_a_second_run_reuses(image_folder, run, decoded):
    root = image_folder({"a": 5, "b": 5})
    first = run(train=root)
    assert len(decoded) == 10
    second = run(train=root, max_bad_images=7)
    assert len(decoded) == 10
    for name in ("train", "val", "test"):
        assert getattr(first, name).fingerprint == getattr(second, name).fingerprint


def test_reuse_without_a_validation_set(image_folder, run):
    root = image_folder({"a": 5, "b": 5})
    assert run(train=root, val_fraction=0.0).val is None
    assert run(train=root, val_fraction=0.0).val is None


def test_moved_and_touched_files_are_compared_once(image_folder, run, decoded, tmp_path):
    first = run(train=image_folder({"a": 5, "b": 5}))
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    os.utime(tmp_path / "moved/a/00.png", (1, 1))
    for _ in range(2):
        second = run(train=tmp_path / "moved")
        assert len(decoded) == 20
        assert second.train.fingerprint == first.train.fingerprint
    assert len(os.listdir(tmp_path / "out/data")) == 4


def test_changed_images_are_refused(image_folder, run, image_file, tmp_path):
    root = image_folder({"a": 5, "b": 5})
    first = run(train=root)
    for index in range(5):
        (root / f"a/{index:02d}.png").write_bytes(image_file(100 + index))
    with pytest.raises(
        UserError, match=r"are not those that .*out was made with; use another --out"
    ):
        run(train=root)
    shutil.rmtree(root)
    with pytest.raises(UserError, match="does not exist"):
        run(train=root)
    assert len(first.train) == 6
    assert len(os.listdir(tmp_path / "out/data")) == 4


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("val_fraction", 0.3),
        ("test_fraction", 0.3),
        ("superclass", "fish"),
        ("shots", 2),
        ("imbalance_factor", 0.5),
        ("seed", 5),
        ("drop_duplicates", True),
        ("unknown_classes", "leave_out"),
        ("configuration", "x"),
    ],
)
def test_other_settings_are_refused(image_folder, run, option, value):
    root = image_folder({"a": 5, "b": 5})
    run(train=root)
    with pytest.raises(
        UserError, match=rf"out was made with --data\.{option} .*, not {value}; go back"
    ):
        run(train=root, **{option: value})


def test_a_run_that_was_killed_before_its_end_starts_again(image_folder, run, tmp_path):
    root = image_folder({"a": 5, "b": 5})
    first = run(train=root)
    (tmp_path / "out/data/data.json").unlink()
    (tmp_path / "out/data/test.arrow").unlink()
    assert run(train=root).test.fingerprint == first.test.fingerprint


def test_out_at_a_uri(image_folder, tmp_path, monkeypatch, decoded):
    (tmp_path / "store").mkdir()
    (tmp_path / "tmp").mkdir()
    store = pafs.SubTreeFileSystem(str(tmp_path / "store"), pafs.LocalFileSystem())
    monkeypatch.setattr(storage, "filesystem", lambda uri: (store, uri.removeprefix("s3://")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    config = DataConfig(train=str(image_folder({"a": 5, "b": 5})))
    first = prepare(config, "s3://bucket/run/")
    second = prepare(config, "s3://bucket/run")
    assert len(decoded) == 10
    assert first.train.fingerprint == second.train.fingerprint
    assert sorted(os.listdir(tmp_path / "store/bucket/run/data")) == [
        "data.json",
        "test.arrow",
        "test.arrow.index",
        "train.arrow",
        "train.arrow.index",
        "val.arrow",
        "val.arrow.index",
    ]
