import pickle

import numpy as np
import pytest

from diffmix.datasets.real import Example, RealSet
from diffmix.errors import UserError
from diffmix.files.set_index import SetIndex, read_classes

URI = "s3://mixes/Vögel/data/train.arrow"
PATH = "/mixes/V%C3%B6gel/data/train.arrow"


@pytest.fixture
def examples(monkeypatch, tmp_path):
    """Some 20 MB of images."""
    monkeypatch.setenv("DIFFMIX_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    return [Example(f"ü/{i}", random.bytes(20_000 + i), i % 3, None) for i in range(1000)]


def another_node(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFMIX_CACHE", str(tmp_path / "cache of another node"))


def test_an_index_says_where_each_image_lies(bucket_server, examples, monkeypatch, tmp_path):
    real = RealSet.write(URI, examples, ["a", "b", "ü"], "bird")
    size = sum(len(example.image) for example in examples)
    another_node(monkeypatch, tmp_path)
    bucket_server.log.clear()
    index = SetIndex.open(URI)
    assert (index.class_names, index.superclass) == (["a", "b", "ü"], "bird")
    assert index.fingerprint == real.fingerprint
    assert index.id_column.to_pylist() == real.image_ids
    assert index.labels.tolist() == real.labels.tolist()
    rows = [999, 0, 255, 256, 257, 0]
    assert index.images(rows) == [examples[row].image for row in rows]
    assert sorted(bucket_server.bytes_of(PATH)) == sorted(len(examples[row].image) for row in rows)
    assert sum(bucket_server.bytes_of(PATH + ".index")) < size / 100


def test_class_names_take_some_kilobytes(bucket_server, examples, monkeypatch, tmp_path):
    RealSet.write(URI, examples, ["a", "b", "ü"], "bird")
    another_node(monkeypatch, tmp_path)
    bucket_server.log.clear()
    assert read_classes(URI) == (["a", "b", "ü"], "bird")
    assert bucket_server.bytes_of(PATH) == []
    assert sum(bucket_server.bytes_of(PATH + ".index")) < 10_000


def test_a_set_without_an_index(bucket_server, examples):
    assert SetIndex.open("s3://mixes/none.arrow") is None
    assert read_classes("s3://mixes/none.arrow") is None


def test_a_set_that_is_gone(bucket_server, examples):
    import boto3

    RealSet.write(URI, examples, ["a", "b", "ü"], "bird")
    index = SetIndex.open(URI)
    boto3.client("s3").delete_object(Bucket="mixes", Key="Vögel/data/train.arrow")
    with pytest.raises(UserError, match=r"train\.arrow cannot be read"):
        index.images([0])


def test_six_processes_of_a_node_download_a_set_once(
    bucket_server, examples, monkeypatch, tmp_path, six_at_once
):
    real = RealSet.write(URI, examples, ["a", "b", "ü"], "bird")
    assert bucket_server.bytes_of(PATH) == [], "the writer has its own copy"
    another_node(monkeypatch, tmp_path)
    script = f"""
import pickle, sys
from diffmix.datasets.real import RealSet
print("ready", flush=True)
sys.stdin.readline()
print(RealSet.open({URI!r}).fingerprint)
"""
    assert six_at_once(script) == [real.fingerprint] * 6
    import boto3

    head = boto3.client("s3").head_object(Bucket="mixes", Key="Vögel/data/train.arrow")
    assert sum(bucket_server.bytes_of(PATH)) == head["ContentLength"]
    assert pickle.loads(pickle.dumps(real)).image_bytes(5) == examples[5].image
    assert sum(bucket_server.bytes_of(PATH)) == head["ContentLength"]
