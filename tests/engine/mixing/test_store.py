import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffmix.errors import UserError
from engine.mixing.store import MixStore, part_name
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
    with pytest.raises(
        UserError, match=r"delete it, or give the same command with --run\.repair True"
    ):
        store.read(0)


def test_temporary_files_are_no_parts(tmp_path):
    store = MixStore(str(tmp_path))
    (tmp_path / f".{part_name(4)}.17.tmp").write_bytes(b"")
    assert store.stored_chunks() == set()


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    """In an image, where Parquet has no reason to complain; what a filter changes is no damage."""
    store = MixStore(str(tmp_path))
    store.write(0, chunk(1, 2))
    store.write(0, chunk(1, 2, accepted=False), "a gate")
    assert store.read(0)["accepted"].to_pylist() == [False, False]
    file = tmp_path / part_name(0)
    content = bytearray(file.read_bytes())
    content[content.index(b"image 2") + 3] ^= 1
    file.write_bytes(content)
    assert pq.read_table(file)["image"][1].as_py() == b"ima\x66e 2"
    with pytest.raises(UserError, match=rf"{part_name(0)} is damaged \(its checksum"):
        store.read(0)


def test_a_part_without_a_checksum_is_an_older_one(tmp_path):
    store = MixStore(str(tmp_path))
    store.write(0, chunk(1, 2))
    (tmp_path / "checksums" / "00000000.sha256").unlink()
    assert store.read(0).equals(chunk(1, 2))
