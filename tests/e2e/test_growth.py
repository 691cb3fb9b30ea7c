"""`ray job submit` on a cluster that starts with a head without CPUs, and whose spot market has no
mixing node for a while.
"""

import json
from pathlib import Path
from threading import Event

import pytest
import yaml

from diffmix.config import to_dict

pytestmark = pytest.mark.slow

NO_MIXERS = "waiting for mixers 0 of 1..3"


@pytest.fixture(scope="module")
def growing(own_clusters, local_cluster):
    """Address and folder of a cluster that grows to 1 train node and 3 mixing nodes."""
    sizes = ("--train", "1", "--gen", "3", "--idle_minutes", "0.5")
    with local_cluster("clusters.local.autoscale", *sizes) as (address, folder):
        (file,) = folder.glob("dm*/cluster.yaml")
        yield address, file.parent


def events(out: Path) -> list[dict]:
    file = out / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def asked(folder: Path) -> list[list[str]]:
    """What the provider did: time, what, group or node."""
    log = folder / "provider.log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def test_a_job_starts_without_nodes_waits_for_spot_and_ends_with_every_mix(
    growing, submit, tmp_path, small_config
):
    dashboard, folder = growing
    (folder / "no_capacity").write_text("gen\n")
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    config = small_config(
        "",
        **{
            "mix.count": 96,
            "train.epochs": 60,
            "placement.separate": True,
            "placement.mixers": (1, 3),
        },
    )
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    job = submit(dashboard, "--config", str(recipe), "--out", str(out))
    while not any(event.get("text") == NO_MIXERS for event in events(out)):
        assert job.poll() is None, job.communicate()[0]
        Event().wait(0.5)  # another process's file sends no event
    assert not any(event["event"] == "mix" for event in events(out))
    (folder / "no_capacity").unlink()
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0, output
    assert "waiting for 1 train node (0 of 1)" in output
    assert NO_MIXERS in output

    happened = events(out)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["plan"]["stored"], summary["plan"]["planned"]) == (96, 96)
    chunks = [event["chunk"] for event in happened if event["event"] == "mix"]
    assert len(chunks) == len(set(chunks))
    groups = [words[2] for words in asked(folder) if words[1] == "created"]
    assert groups[0] == "train"  # the mixing nodes come later
    assert "gen" in groups
    kinds = [event["event"] for event in happened]
    first = {kind: kinds.index(kind) for kind in ("worker_ready", "mixer_ready", "mix", "train")}
    assert first["worker_ready"] < first["mixer_ready"] < first["mix"] < first["train"]
