"""The whole job with its run folder in a bucket: real S3 requests to a server on this machine."""

import json

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load

from diffmix.storage import Folder
from engine import listeners, telemetry
from engine.run import run

BUCKET = "mixes"


@pytest.fixture
def bucket(bucket_server):
    """A client of the server. The cluster's workers know its address and keys."""
    import boto3

    return boto3.client("s3")


def objects(bucket, prefix: str) -> dict[str, str]:
    """Key -> entity tag and time of last change."""
    found = bucket.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {
        item["Key"]: f"{item['ETag']} {item['LastModified']}"
        for page in found
        for item in page.get("Contents", [])
    }


def test_a_run_in_a_bucket_resumes_there(bucket, cluster, small_config):
    """Personalized and overlapped. A second run makes the parts that were lost, and no other."""
    changes = {"mix.strategy": "diff-mix", "mix.count": 24}
    out = f"s3://{BUCKET}/Vögel/run 1"
    summary = run(small_config(out, **changes))
    assert summary["plan"] == {"planned": 24, "stored": 24, "rejected": 0, "set_aside": 0}
    kept = objects(bucket, "Vögel/run 1/")
    names = {key.removeprefix("Vögel/run 1/") for key in kept}
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "report.html", "data/train.arrow"):
        assert name in names
    for name in (
        "concept/concept.json",
        "concept/learned_embeds.safetensors",
        "mixes/plan.json",
        "classifier/model.safetensors",
    ):
        assert name in names
    weights = bucket.get_object(Bucket=BUCKET, Key="Vögel/run 1/classifier/model.safetensors")[
        "Body"
    ].read()
    assert load(weights)
    assert (
        json.loads(bucket.get_object(Bucket=BUCKET, Key="Vögel/run 1/summary.json")["Body"].read())[
            "plan"
        ]["stored"]
        == 24
    )

    parts = sorted(key for key in kept if "/mixes/part-" in key)
    lost = {key: bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in parts[:2]}
    for key in lost:
        bucket.delete_object(Bucket=BUCKET, Key=key)
    run(small_config(out, **changes))
    again = objects(bucket, "Vögel/run 1/")
    for key, data in lost.items():
        assert bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read() == data
    assert all(again[key] == kept[key] for key in parts[2:])
    with Folder(f"{out}/mixes").open(parts[0].rpartition("/")[2]) as file:
        assert pq.read_table(file).num_rows > 0


def test_events_go_to_a_bucket_every_half_minute_and_none_is_lost(bucket, cluster, monkeypatch):
    out = Folder(f"s3://{BUCKET}/events").create()
    events = telemetry.Telemetry(out, "telemetry-of-a-bucket")
    events.collect()
    assert not out.exists("metrics.jsonl"), "the first half minute has not passed"
    monkeypatch.setattr(listeners, "_REMOTE_SECONDS", 0.0)
    events.collect()
    assert [event["event"] for event in telemetry.read_events(out)] == ["start"]
    monkeypatch.setattr(listeners, "_REMOTE_SECONDS", 30.0)
    events.record("split")
    events.collect()
    assert len(telemetry.read_events(out)) == 1
    events.close()
    assert [event["event"] for event in telemetry.read_events(out)] == ["start", "split"]
