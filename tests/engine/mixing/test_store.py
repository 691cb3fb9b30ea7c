import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffmix.errors import UserError
from engine.mixing.store import MixStore, part_name, read_ahead
from engine.testing import mix_table

IDENTITY = {"plan": {"seed": 1, "strength": [0.7]}, "data": "abc"}


def chunk(*ids: int, accepted: bool = True) -> pa.Table:
    return pa.concat_tables(mix_table(1, i, accepted=accepted) for i in ids).combine_chunks()


def test_round_trip_through_another_reader(tmp_path):
    store = MixStore(str(tmp_path))
    store.write(3, chunk(6, 7).append_column("chunk", pa.array([3, 3])))
    assert store.stored_chunks() == {3}
    assert pq.read_table(tmp_path / part_name(3)).equals(chunk(6, 7))
    assert store.read(3).equals(chunk(6, 7))


def test_same_mixes_same_bytes(tmp_path):
    MixStore(str(tmp_path / "a")).write(0, chunk(1, 2))
    MixStore(str(tmp_path / "b")).write(
        0, pa.concat_tables([chunk(1), chunk(2)])
    )  # other Arrow chunks, same rows
    assert (tmp_path / "a" / part_name(0)).read_bytes() == (
        tmp_path / "b" / part_name(0)
    ).read_bytes()


def test_counts_tell_stored_from_rejected(tmp_path):
    store = MixStore(str(tmp_path))
    store.write(0, chunk(1, 2, 3))
    store.write(1, chunk(4, accepted=False))
    assert store.counts() == (3, 1)


def test_bind_refuses_another_plan_and_names_the_setting(tmp_path):
    store = MixStore(str(tmp_path))
    store.bind(IDENTITY)
    store.bind(IDENTITY)
    with pytest.raises(UserError, match=r"plan\.seed is 1 there and 2 now"):
        store.bind({"plan": {"seed": 2, "strength": [0.7]}, "data": "abc"})


def test_bind_refuses_parts_without_a_plan(tmp_path):
    store = MixStore(str(tmp_path))
    store.write(0, chunk(1))
    with pytest.raises(UserError, match=r"no plan\.json"):
        store.bind(IDENTITY)


def test_damaged_part(tmp_path):
    store = MixStore(str(tmp_path))
    (tmp_path / part_name(0)).write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match="delete it and it is made again"):
        store.read(0)


def test_temporary_files_are_no_parts(tmp_path):
    store = MixStore(str(tmp_path))
    (tmp_path / f".{part_name(4)}.17.tmp").write_bytes(b"")
    assert store.stored_chunks() == set()


def test_parts_are_read_ahead_in_order_and_not_all_at_once():
    """A slow consumer holds a few parts in memory, however many there are."""
    begun = []

    def read(chunk: int) -> int:
        begun.append(chunk)
        return chunk

    parts = read_ahead(read, range(1000))
    assert [next(parts) for _ in range(3)] == [0, 1, 2]
    assert len(begun) <= 50
    assert list(parts) == list(range(3, 1000))
    broken = read_ahead(lambda chunk: 1 // chunk, [1, 0, 1])
    assert next(broken) == 1
    with pytest.raises(ZeroDivisionError):
        next(broken)
