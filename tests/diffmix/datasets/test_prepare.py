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

from diffmix import images, storage
from diffmix.config import DataConfig
from diffmix.datasets.prepare import prepare
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
    with pytest.raises(
        UserError, match="test photos has the class 'x', which the training images lack"
    ):
        run(
            train=image_folder({"a": 3, "b": 3}), test=image_folder({"a": 1, "x": 1}, "test photos")
        )


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
    assert "a/large.png" in [
        name for real in vars(run(train=root, max_pixels=1600)).values() for name in real.image_ids
    ]


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
