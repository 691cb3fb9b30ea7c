"""Covers clusters/gcp: spot_first.py with stand-ins for Compute Engine, the scripts by shellcheck
and with a stand-in for `gcloud`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("googleapiclient", reason="needs google-api-python-client")
from clusters.gcp.spot_first import SpotFirst

ROOT = Path(__file__).parents[2]
GCP = ROOT / "clusters/gcp"
TAGS = {"ray-user-node-type": "mix"}
SPOT = {"machineType": "g2-standard-8", "scheduling": {"provisioningModel": "SPOT"}}
FULL = "[{'code': 'ZONE_RESOURCE_POOL_EXHAUSTED', 'message': 'does not have enough'}]"


class ComputeEngine:
    """What Ray's provider does, with a list for machines and an error for spot requests."""

    def __init__(self, monkeypatch, spot_error: str | None = None):
        self.nodes: dict[str, dict] = {}
        self.spot_error = spot_error
        parent = SpotFirst.__mro__[1]
        monkeypatch.setattr(parent, "__init__", lambda *_: None)
        monkeypatch.setattr(parent, "create_node", self.create)
        monkeypatch.setattr(parent, "non_terminated_nodes", lambda *_: list(self.nodes))
        monkeypatch.setattr(parent, "_get_cached_node", lambda _, name: self.nodes[name])

    def create(self, config, tags, count):
        assert count == 1
        if self.spot_error and config["scheduling"]["provisioningModel"] == "SPOT":
            raise Exception(self.spot_error)
        name = f"node{len(self.nodes)}"
        self.nodes[name] = config
        return {name: {}}

    def models(self) -> list[str]:
        return [node["scheduling"]["provisioningModel"] for node in self.nodes.values()]


def provider() -> SpotFirst:
    made = SpotFirst({}, "diffmix")
    made.provider_config = {"max_on_demand_mixers": 2}
    return made


@pytest.fixture(autouse=True)
def unbound(monkeypatch):
    """`create_node` of the parent is reached through `super()`: let it take no `self`."""
    original = ComputeEngine.create
    monkeypatch.setattr(
        ComputeEngine, "create", lambda engine, *words: original(engine, *words[-3:])
    )


def test_machines_are_spot_while_there_are_any(monkeypatch):
    engine = ComputeEngine(monkeypatch)
    assert list(provider().create_node(SPOT, TAGS, 3)) == ["node0", "node1", "node2"]
    assert engine.models() == ["SPOT"] * 3


def test_without_spot_capacity_machines_are_on_demand_up_to_the_limit(monkeypatch):
    engine = ComputeEngine(monkeypatch, FULL)
    with pytest.raises(Exception, match="EXHAUSTED"):
        provider().create_node(SPOT, TAGS, 3)
    assert engine.models() == ["STANDARD", "STANDARD"]


def test_another_error_is_not_answered_with_on_demand(monkeypatch):
    engine = ComputeEngine(monkeypatch, "Invalid value for field")
    with pytest.raises(Exception, match="Invalid value"):
        provider().create_node(SPOT, TAGS, 1)
    assert not engine.nodes


@pytest.mark.parametrize("script", sorted(path.name for path in GCP.glob("*.sh")))
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, GCP / script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def run(script: str, words: list[str], tools: dict[str, str], tmp_path: Path):
    """Run a script with stand-ins on the PATH; they log their words to $SEEN."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in tools.items():
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "$SEEN"\n{text}\n')
        (folder / name).chmod(0o755)
    seen = tmp_path / "seen"
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SEEN": str(seen)}
    result = subprocess.run(
        ["bash", GCP / script, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return result, seen.read_text()


def test_prepare_opens_ssh_to_the_proxy_only_and_fills_in_the_file(tmp_path):
    gcloud = """case "$*" in
*describe*) exit 1 ;;
*"images list"*) echo common-cu128-ubuntu-2204 ;;
esac"""
    result, seen = run(
        "prepare.sh", ["birds-1", "us-central1-a", "bucket"], {"gcloud": gcloud}, tmp_path
    )
    assert result.returncode == 0, result.stderr
    rules = [line for line in seen.splitlines() if "firewall-rules create" in line]
    assert [line.split("--source-ranges ")[1].split()[0] for line in rules] == [
        "35.235.240.0/20",
        "10.10.0.0/20",
    ]
    assert "0.0.0.0" not in seen
    config = yaml.safe_load(result.stdout)
    assert config["provider"]["region"] == "us-central1"
    assert config["provider"]["availability_zone"] == "us-central1-a"
    assert "@" not in str(config["available_node_types"]["head"])
    account = config["available_node_types"]["mix"]["node_config"]["serviceAccounts"][0]["email"]
    assert account == "diffmix-node@birds-1.iam.gserviceaccount.com"


def test_prepare_changes_nothing_that_is_there(tmp_path):
    gcloud = 'case "$*" in *"images list"*) echo family ;; esac'
    result, seen = run("prepare.sh", ["p", "us-central1-a", "b"], {"gcloud": gcloud}, tmp_path)
    assert result.returncode == 0, result.stderr
    assert " create " not in seen


def test_down_deletes_what_carries_the_label_and_says_when_nothing_is_left(tmp_path):
    gcloud = """case "$*" in
*"instances list"*zone*) echo "ray-diffmix-head-1 us-central1-a" ;;
esac"""
    result, seen = run("down.sh", ["birds-1"], {"gcloud": gcloud}, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "instances delete ray-diffmix-head-1 --zone us-central1-a --delete-disks=all" in seen
    assert "Nothing is left" in result.stdout
    assert "networks delete" not in seen


def test_down_fails_when_something_is_left(tmp_path):
    gcloud = 'case "$*" in *"disks list"*) echo ray-diffmix-worker-1 ;; esac'
    result, _ = run("down.sh", ["birds-1"], {"gcloud": gcloud}, tmp_path)
    assert result.returncode == 1
    assert "Left: ray-diffmix-worker-1" in result.stdout


CURL = """case "$*" in
*instance/name*) echo ray-diffmix-head-1 ;;
*instance/zone*) echo projects/7/zones/us-central1-a ;;
*token*) echo '{"access_token":"secret","expires_in":3599}' ;;
*DELETE*) exit "${DELETE_CODE:-0}" ;;
esac"""


def test_a_machine_deletes_itself(tmp_path):
    tools = {"curl": CURL, "shutdown": ""}
    result, seen = run("delete_self.sh", [], tools, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Bearer secret" in seen
    assert "/compute/v1/projects/7/zones/us-central1-a/instances/ray-diffmix-head-1" in seen
    assert "shutdown" not in seen


def test_a_machine_that_may_not_delete_itself_shuts_down(tmp_path, monkeypatch):
    monkeypatch.setenv("DELETE_CODE", "22")
    _, seen = run("delete_self.sh", [], {"curl": CURL, "shutdown": ""}, tmp_path)
    assert "shutdown -h now" in seen
