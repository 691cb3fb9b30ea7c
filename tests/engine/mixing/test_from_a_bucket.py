"""The steps of a run whose data, base model and run folder are in a bucket, on two nodes with disks
of their own. No Ray: `tests/e2e/test_buckets_alone.py` has the whole run on a cluster.
"""

from types import SimpleNamespace
from urllib.parse import quote

import boto3
import pyarrow as pa
import pytest
import ray.train

from diffmix.datasets.real import RealSet
from engine.mixer import mixer_actor
from engine.mixer.mixer_actor import MixActor
from engine.mixing import stages
from engine.mixing.job import MixJob
from engine.mixing.stages import group_chunks, read_chunks
from engine.mixing.store import MixStore
from engine.phases import missing_chunks
from engine.placement.preflight import check_inputs
from engine.telemetry import Reporter
from engine.training.arrivals import Arrivals
from engine.training.pool import PoolWriter


class Quiet(Reporter):
    def send(self, kind, **values):
        pass

    def lost_mixers(self):
        return 0


@pytest.fixture
def on_node(monkeypatch, tmp_path):
    """`on_node(name)`: from now on this process is on that node."""

    def go(name: str) -> None:
        monkeypatch.setenv("DIFFMIX_CACHE", str(tmp_path / f"disk of {name}"))
        stages._real.cache_clear()
        stages._plan.cache_clear()

    context = SimpleNamespace(
        get_actor_id=lambda: "a" * 20,
        get_node_id=lambda: "node",
        was_current_actor_reconstructed=False,
        is_canceled=lambda: False,
    )
    monkeypatch.setattr(mixer_actor.ray, "get_runtime_context", lambda: context)
    worker = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: worker)
    return go


def upload(folder, prefix: str) -> dict[str, int]:
    """Key -> size of what a local folder becomes in the bucket."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder)}"
            boto3.client("s3").put_object(Bucket="mixes", Key=key, Body=path.read_bytes())
            sizes[key] = path.stat().st_size
    return sizes


def test_each_node_reads_what_it_needs_once(
    bucket_server, on_node, small_config, tiny_base, photos, tmp_path
):
    images, base = upload(photos, "data/photos"), upload(tiny_base, "models/tiny")
    bucket_server.log.clear()

    def read(keys) -> dict[str, int]:
        return {key: sum(bucket_server.bytes_of(quote(f"/mixes/{key}"))) for key in keys}

    changes = {"model.base": "s3://mixes/models/tiny", "mix.count": 24}
    changes["data.train"] = "s3://mixes/data/photos"
    config = small_config("s3://mixes/runs/steps", **changes)

    on_node("head")
    inputs = check_inputs(config)
    inputs.source.open(config, None)
    real, chunks = inputs.data.train, inputs.source.plan(config).num_chunks
    train = "runs/steps/data/train.arrow"
    assert read(images) == images
    assert read(base) == base
    assert read([train]) == {train: 0}, "the writer's file is the node's copy"

    on_node("mixers")
    store = inputs.source.store
    uri = store.folder.uri
    job = MixJob(
        config=config, real_path=real.path, concept=None, store=uri, reporter=Quiet("none")
    )
    mixers = [MixActor(job, True), MixActor(job, True)]
    groups = group_chunks(missing_chunks(job, chunks), 2)
    wanted = 0
    for task in range(len(groups)):
        for table in read_chunks(pa.table({"id": [task]}), job, groups):
            for row, specs in enumerate(table["specs"].to_pylist()):
                mixers[row % 2](table.slice(row, 1))
                sources = {spec["source_id"] for spec in specs}
                wanted += sum(len(real.image_bytes(real.index_of(name))) for name in sources)
    assert read(base) == {key: 2 * size for key, size in base.items()}, "once for each node"
    assert read([train]) == {train: wanted}, "source images alone"
    assert store.counts() == inputs.source.counts(config) == (24, 0)

    on_node("head")
    pool = PoolWriter(str(tmp_path / "pool"))
    Arrivals(MixStore(uri).folder.uri, pool, False).finish()
    assert len(pool) == 24
    assert len(RealSet.open(real.path)) == len(real)
    check_inputs(config)
    assert read(images) == images
    assert read([train]) == {train: wanted}
