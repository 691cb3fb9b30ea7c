import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from diffmix import storage
from diffmix.datasets.real import Example, RealSet, classes_of, open_rows
from diffmix.errors import UserError

CLASSES = ["Zaunkönig", "翠鸟", "house sparrow"]


def examples(count=600):
    rng = np.random.default_rng(0)
    return [
        Example(f"a/{i}", rng.bytes(1 + i % 7), i % 3, "water" if i % 2 else None)
        for i in range(count)
    ]


def write(path, rows=None, class_names=CLASSES, superclass="bird"):
    return RealSet.write(str(path), examples() if rows is None else rows, class_names, superclass)


def test_round_trip_over_several_batches(tmp_path):
    rows = examples()
    images = write(tmp_path / "sub" / "train.arrow", iter(rows))
    assert len(images) == 600
    assert (images.class_names, images.superclass) == (CLASSES, "bird")
    assert images.labels.dtype == np.int32
    read = zip(
        images.image_ids,
        map(images.image_bytes, range(600)),
        images.labels.tolist(),
        images.groups,
        strict=True,
    )
    assert [Example(*row) for row in read] == rows
    assert [images.index_of(name) for name in ("a/0", "a/255", "a/256", "a/599")] == [
        0,
        255,
        256,
        599,
    ]
    with pytest.raises(KeyError):
        images.index_of("b")
    for index in (-1, 600):
        with pytest.raises(IndexError):
            images.image_bytes(index)


def test_the_file_is_plain_arrow_with_the_contracts_columns(tmp_path):
    write(tmp_path / "x.arrow")
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "x.arrow"))).read_all()
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("image_id", "string"),
        ("image", "binary"),
        ("label", "int32"),
        ("group", "string"),
    ]
    assert table.num_rows == 600
    assert max(map(len, table.to_batches())) <= 256


def test_batches_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("diffmix.datasets.real._BATCH_BYTES", 10)
    images = write(tmp_path / "x.arrow", [Example(str(i), b"12345678", 0) for i in range(5)])
    table = pa.ipc.open_file(str(tmp_path / "x.arrow")).read_all()
    assert [len(batch) for batch in table.to_batches() if len(batch)] == [2, 2, 1]
    assert images.image_bytes(4) == b"12345678"


def test_empty(tmp_path):
    images = write(tmp_path / "x.arrow", [])
    assert (len(images), images.image_ids, images.labels.shape) == (0, [], (0,))


def test_fingerprint_depends_on_content_alone(tmp_path):
    rows = examples(10)
    base = write(tmp_path / "a.arrow", rows).fingerprint
    assert len(base) == 64
    assert write(tmp_path / "b.arrow", rows).fingerprint == base
    assert RealSet.open(str(tmp_path / "b.arrow")).fingerprint == base
    others = [
        write(tmp_path / "c.arrow", rows[::-1]),
        write(tmp_path / "c.arrow", rows[:-1]),
        write(tmp_path / "c.arrow", [*rows[:-1], rows[-1]._replace(image=b"other")]),
        write(tmp_path / "c.arrow", [*rows[:-1], rows[-1]._replace(image_id="other")]),
        write(tmp_path / "c.arrow", [*rows[:-1], rows[-1]._replace(label=1)]),
        write(tmp_path / "c.arrow", rows, class_names=["a", "b", "c"]),
        write(tmp_path / "c.arrow", rows, superclass="fish"),
    ]
    assert len({base, *(images.fingerprint for images in others)}) == 8


def test_pickle_and_threads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = write("x.arrow")
    monkeypatch.chdir("/")  # a worker process has another working directory
    copy = pickle.loads(pickle.dumps(images))
    assert copy.fingerprint == images.fingerprint
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.image_bytes, range(600))) == [row.image for row in examples()]


def test_file_uri(tmp_path):
    uri = (tmp_path / "Vögel und mehr").as_uri() + "/x.arrow"
    images = RealSet.write(uri, examples(), CLASSES, "bird")
    assert (tmp_path / "Vögel und mehr" / "x.arrow").exists()
    assert RealSet.open(uri).image_bytes(5) == images.image_bytes(5) == examples()[5].image


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An object store that is a local folder, and a list of the downloads from it."""
    (tmp_path / "store").mkdir()
    store = pafs.SubTreeFileSystem(str(tmp_path / "store"), pafs.LocalFileSystem())
    downloads = []
    copy_files = pafs.copy_files

    def copy(source, destination, **options):
        downloads.extend([source] if options.get("source_filesystem") is store else [])
        copy_files(source, destination, **options)

    monkeypatch.setattr(storage, "filesystem", lambda uri: (store, uri.removeprefix("s3://")))
    monkeypatch.setattr(storage.pafs, "copy_files", copy)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return downloads


def test_a_remote_set_is_downloaded_once_and_again_when_it_changed(bucket, tmp_path, monkeypatch):
    images = write("s3://bucket/run/x.arrow")
    assert (tmp_path / "store/bucket/run/x.arrow").exists()
    assert RealSet.open("s3://bucket/run/x.arrow").fingerprint == images.fingerprint
    assert bucket == [], "the writer's file has become this node's copy"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp of another node"))
    assert pickle.loads(pickle.dumps(images)).image_bytes(3) == examples()[3].image
    assert pickle.loads(pickle.dumps(images)).image_bytes(3) == examples()[3].image
    assert len(bucket) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    write("s3://bucket/run/x.arrow", examples(5))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp of another node"))
    assert len(RealSet.open("s3://bucket/run/x.arrow")) == 5
    assert len(bucket) == 2


def test_rows_and_classes_of_a_remote_set_are_read_without_a_copy(bucket, tmp_path, monkeypatch):
    images = write("s3://bucket/run/x.arrow")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp of another node"))
    assert classes_of("s3://bucket/run/x.arrow") == (CLASSES, "bird")
    assert bucket == []
    rows = open_rows("s3://bucket/run/x.arrow")
    assert rows.images([4, 599, 4]) == [examples()[row].image for row in (4, 599, 4)]
    assert rows.fingerprint == images.fingerprint
    assert bucket == ["bucket/run/x.arrow.index"]


def test_rows_and_classes_of_a_set_without_a_side_car(bucket, tmp_path):
    """Sets of older versions have none, and local ones need none."""
    images = write("s3://bucket/run/x.arrow")
    (tmp_path / "store/bucket/run/x.arrow.index").unlink()
    for path in ("s3://bucket/run/x.arrow", write(tmp_path / "x.arrow").path):
        assert classes_of(path) == (CLASSES, "bird")
        rows = open_rows(path)
        assert isinstance(rows, RealSet)
        assert rows.images([2, 1]) == [images.image_bytes(2), images.image_bytes(1)]
        assert rows.sizes.tolist() == [len(row.image) for row in examples()]
        assert rows.id_column.to_pylist() == images.image_ids


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write(tmp_path / "x.arrow", examples(3))
    with pytest.raises(ValueError, match="'a/0' occurs twice"):
        write(tmp_path / "x.arrow", examples(300) + examples(1))
    with pytest.raises(ValueError, match="label 3"):
        write(tmp_path / "x.arrow", [Example("a", b"", 3)])
    assert os.listdir(tmp_path) == ["x.arrow"]
    assert len(RealSet.open(str(tmp_path / "x.arrow"))) == 3


@pytest.mark.parametrize("content", [None, b"", b"ARROW1 and then nothing of it"])
def test_what_is_no_set(tmp_path, content):
    path = tmp_path / "x.arrow"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.arrow"):
        RealSet.open(str(path))


def test_another_programs_arrow_file(tmp_path):
    schema = pa.schema([("a", pa.int32())])
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([1], pa.int32())], schema=schema))
    with pytest.raises(UserError, match="not a file of prepared images"):
        RealSet.open(str(tmp_path / "x.arrow"))
