"""A worker's pool is filled from the store and from the stream, here one that the test holds."""

import threading
from types import SimpleNamespace

import pytest
import ray.train

from diffmix.errors import UserError
from engine.mixing.store import MixStore
from engine.testing import mix_table
from engine.training.arrivals import Arrivals
from engine.training.pool import PoolReader, PoolWriter


class Shard:
    """A Ray Data shard that gives one table for each `release`, and an error or its end after."""

    def __init__(self, tables, error=None, stored=()):
        self.tables, self.error, self.stored = tables, error, stored
        self.allowed = threading.Semaphore(0)

    def release(self, tables: int = 1) -> None:
        self.allowed.release(tables)

    def iter_batches(self, **options):
        for table in self.tables:
            self.allowed.acquire()
            yield table
        self.allowed.acquire()
        if self.error:
            raise self.error


@pytest.fixture
def worker(monkeypatch):
    """`worker(shard, rank, world_size)` is what Ray Train tells this process."""

    def be(shard=None, rank=0, world_size=1):
        context = SimpleNamespace(get_world_rank=lambda: rank, get_world_size=lambda: world_size)
        monkeypatch.setattr(ray.train, "get_context", lambda: context)
        monkeypatch.setattr(ray.train, "get_dataset_shard", {"mix": shard}.__getitem__)

    return be


def images(pool: PoolWriter) -> list[bytes]:
    reader = PoolReader(pool.folder)
    return [reader[i].image for i in range(len(pool))]


def test_each_rank_takes_its_share_of_the_store(tmp_path, worker):
    store = MixStore(str(tmp_path / "mixes"))
    for chunk in range(5):
        store.write(chunk, mix_table(2, 2 * chunk))
    found = []
    for rank in range(2):
        worker(rank=rank, world_size=2)
        pool = PoolWriter(str(tmp_path / f"pool-{rank}"))
        arrivals = Arrivals(store.folder.uri, pool, streaming=False)
        arrivals.wait_for(1000)  # nothing more will come
        arrivals.finish()
        found.append(images(pool))
    assert [len(each) for each in found] == [6, 4]
    assert sorted(found[0] + found[1]) == [f"image {i}".encode() for i in range(10)]


def test_stored_mixes_come_first_and_streamed_ones_end_the_wait(tmp_path, worker):
    store = MixStore(str(tmp_path / "mixes"))
    store.write(0, mix_table(2))
    store.write(1, mix_table(2, 10))  # by the stream of the attempt before, after the list was made
    shard = Shard([mix_table(3, 10), mix_table(3, 20)], stored=[0])
    worker(shard)
    pool = PoolWriter(str(tmp_path / "pool"))
    arrivals = Arrivals(str(tmp_path / "mixes"), pool, streaming=True)
    arrivals.wait_for(2)
    assert len(pool) == 2
    shard.release()
    arrivals.wait_for(5)
    assert len(pool) == 5
    shard.release(2)
    arrivals.wait_for(1000)  # the stream ends before so many
    arrivals.finish()
    assert images(pool) == [f"image {i}".encode() for i in (0, 1, 10, 11, 12, 20, 21, 22)]


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (UserError("The disk is full."), UserError, "The disk is full."),
        (ValueError("unknown"), RuntimeError, "The stream of mixes broke off."),
    ],
)
def test_what_stops_the_stream_is_raised_by_every_call(tmp_path, worker, error, raised, says):
    shard = Shard([mix_table(1)], error)
    shard.release(2)
    worker(shard)
    arrivals = Arrivals(None, PoolWriter(str(tmp_path)), streaming=True)
    for call in (lambda: arrivals.wait_for(100), arrivals.check, arrivals.finish):
        with pytest.raises(raised) as caught:
            call()
        assert str(caught.value) == says


def test_the_stream_flows_before_the_stored_mixes_are_read(tmp_path, worker, monkeypatch):
    """Reading waits until the test has seen a mix of the stream, and needs eight threads."""
    store = MixStore(str(tmp_path / "mixes"))
    for chunk in range(8):
        store.write(chunk, mix_table(2, 2 * chunk))
    streamed, together = threading.Event(), threading.Barrier(8, timeout=60)
    read = MixStore.read

    def late(self, chunk, columns=None):
        assert streamed.wait(60)
        together.wait()
        return read(self, chunk, columns)

    monkeypatch.setattr(MixStore, "read", late)
    shard = Shard([mix_table(3, 100)], stored=range(8))
    shard.release()
    worker(shard)
    pool = PoolWriter(str(tmp_path / "pool"))
    arrivals = Arrivals(store.folder.uri, pool, streaming=True)
    arrivals.wait_for(3)
    assert images(pool) == [b"image 100", b"image 101", b"image 102"]
    streamed.set()
    arrivals.wait_for(19)
    shard.release()
    arrivals.finish()
    assert images(pool)[3:] == [f"image {i}".encode() for i in range(16)]


def test_a_part_that_cannot_be_read_stops_the_worker(tmp_path, worker):
    MixStore(str(tmp_path / "mixes")).write(0, mix_table(2))
    (tmp_path / "mixes" / "part-00000000.parquet").write_bytes(b"damaged")
    shard = Shard([], stored=[0])
    worker(shard)
    arrivals = Arrivals(str(tmp_path / "mixes"), PoolWriter(str(tmp_path / "pool")), True)
    with pytest.raises(UserError, match="cannot be read"):
        arrivals.wait_for(1)
    shard.release()
