import multiprocessing
import pickle

import pyarrow as pa
import pytest

from engine.testing import mix_table
from engine.training.pool import FLUSH_ROWS, PoolReader, PoolWriter


def rows(first: int, count: int, accepted: bool = True) -> pa.Table:
    ids = range(first, first + count)
    return mix_table(
        count,
        first,
        source_label=[i % 7 for i in ids],
        target_label=[i % 5 for i in ids],
        strength=0.5,
        accepted=accepted,
    )


def test_grows_and_reads_in_order_of_arrival(tmp_path):
    pool, reader = PoolWriter(str(tmp_path)), PoolReader(str(tmp_path))
    assert len(pool) == 0
    with pytest.raises(IndexError):
        reader[0]
    for first in (0, 3, 100):
        pool.add(rows(first, 3))
        pool.flush()
    assert len(pool) == 9
    assert [reader[i].image.decode() for i in range(9)] == [
        f"image {i}" for i in (0, 1, 2, 3, 4, 5, 100, 101, 102)
    ]
    assert reader[8] == (b"image 102", 102 % 7, 102 % 5, 0.5)
    with pytest.raises(IndexError):
        reader[9]


def test_rejected_mixes_stay_out(tmp_path):
    pool = PoolWriter(str(tmp_path))
    pool.add(rows(0, 4, accepted=False))
    pool.add(rows(4, 2))
    pool.flush()
    assert len(pool) == 2
    assert PoolReader(str(tmp_path))[0].image == b"image 4"


def test_many_small_tables_make_few_files(tmp_path):
    pool = PoolWriter(str(tmp_path))
    for first in range(0, 4 * FLUSH_ROWS, 8):
        pool.add(rows(first, 8))
    pool.flush()
    assert len(pool) == 4 * FLUSH_ROWS
    assert len(list(tmp_path.glob("*.arrow"))) <= 8
    assert (
        PoolReader(str(tmp_path))[3 * FLUSH_ROWS + 1].image
        == f"image {3 * FLUSH_ROWS + 1}".encode()
    )


def test_a_slow_stream_makes_few_files_too(tmp_path, monkeypatch):
    from engine.training import pool as module

    clock = iter(range(10**9))
    monkeypatch.setattr(
        module.time, "monotonic", lambda: 10.0 * next(clock)
    )  # every mix comes 10 s or more after the last
    pool = PoolWriter(str(tmp_path))
    seen = []
    for i in range(3000):
        pool.add(rows(i, 1))
        seen.append(len(pool))
    assert seen[:3] == [1, 2, 3]  # at once, while each counts
    assert all(i + 1 - size <= max(1, i / 256) for i, size in enumerate(seen))
    # One file for each mix up to 256, then each file is 1/256 of what was there: 256 (1 + ln(3000 /
    # 256)) = 886.
    assert 700 < len(list(tmp_path.glob("*.arrow"))) < 900
    reader = PoolReader(str(tmp_path))
    assert [reader[i].image for i in (0, 2000)] == [b"image 0", b"image 2000"]


def _read(
    reader: PoolReader, indices: "multiprocessing.Queue", answers: "multiprocessing.Queue"
) -> None:
    for index in iter(indices.get, None):
        answers.put(reader[index].image)


def test_another_process_sees_new_mixes(tmp_path):
    pool = PoolWriter(str(tmp_path))
    context = multiprocessing.get_context("spawn")
    indices, answers = context.Queue(), context.Queue()
    process = context.Process(
        target=_read, args=(pickle.loads(pickle.dumps(PoolReader(str(tmp_path)))), indices, answers)
    )
    process.start()
    for i in range(3):
        pool.add(rows(i, 1))
        pool.flush()
        indices.put(i)
        assert answers.get(timeout=60) == f"image {i}".encode()
    indices.put(None)
    process.join()
    assert process.exitcode == 0


def test_target_classes_by_number(tmp_path):
    pool = PoolWriter(str(tmp_path))
    assert len(pool.targets(0)) == 0
    for first in (0, 3, 100):
        pool.add(rows(first, 3))
        assert len(pool.targets(len(pool))) == 0, "what no reader can see yet does not count"
        pool.flush()
    expected = [i % 5 for i in (0, 1, 2, 3, 4, 5, 100, 101, 102)]
    for start in range(10):
        assert pool.targets(start).tolist() == expected[start:]
