"""Covers clusters/aws/cluster.yaml and clusters/gcp/cluster.yaml: what Ray and the engine read in
them, and what they must not open.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from engine.placement.cluster import MIX_LABEL, TRAIN_LABEL

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
WORDS = {
    "aws": {"REGION", "IMAGE", "SECURITY_GROUP"},
    "gcp": {"PROJECT", "REGION", "ZONE", "IMAGE"},
}


def text_of(cloud: str) -> str:
    return (ROOT / f"clusters/{cloud}/cluster.yaml").read_text()


@pytest.fixture(params=sorted(WORDS))
def cloud(request) -> str:
    return request.param


@pytest.fixture
def config(cloud) -> dict:
    return yaml.safe_load(text_of(cloud))


def test_only_the_words_that_prepare_fills_in_are_open(cloud):
    lines = [line for line in text_of(cloud).splitlines() if not line.startswith("#")]
    assert set(re.findall(r"@([A-Z_]+)@", "\n".join(lines))) == WORDS[cloud]
    prepare = next((ROOT / "clusters" / cloud).glob("prepare.*")).read_text()
    assert {word for word in WORDS[cloud] if f"@{word}@" in prepare} == WORDS[cloud]


def test_the_file_follows_rays_schema(config):
    jsonschema.validate(config, SCHEMA)


def test_groups_have_no_key_that_ray_would_ignore(config):
    """Ray's schema lets unknown keys of a group pass; a misspelled `labels` would go unseen."""
    known = SCHEMA["properties"]["available_node_types"]["patternProperties"][".*"]["properties"]
    for name, group in config["available_node_types"].items():
        assert set(group) <= set(known), name


def test_groups_are_labeled_as_the_engine_looks_for_them(config):
    groups = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert "labels" not in groups["head"]
    assert groups["train"]["labels"] == TRAIN_LABEL
    assert groups["mix"]["labels"] == MIX_LABEL


def test_the_head_does_no_work(config):
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert any("--num-cpus=0 --num-gpus=0" in line for line in config["head_start_ray_commands"])


def test_both_groups_come_from_nothing_and_may_all_be_there_at_once(config):
    groups = {k: v for k, v in config["available_node_types"].items() if k != "head"}
    assert all(group["min_workers"] == 0 for group in groups.values())
    assert config["max_workers"] >= sum(group["max_workers"] for group in groups.values())
    # One for mixers, one for train workers, and CPUs for the readers beside them.
    assert all(group["resources"]["GPU"] == 1 for group in groups.values())
    assert all(group["resources"]["CPU"] >= 8 for group in groups.values())


def test_mixing_nodes_are_spot_and_train_nodes_are_not(cloud, config):
    def spot(group: str) -> bool:
        node = config["available_node_types"][group]["node_config"]
        if cloud == "aws":
            return node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        return node.get("scheduling", {}).get("provisioningModel") == "SPOT"

    assert [spot(group) for group in ("head", "train", "mix")] == [False, False, True]
    assert config["provider"]["max_on_demand_mixers"] > 0


def test_idle_nodes_go_but_not_within_a_hand_over(config):
    assert 1 <= config["idle_timeout_minutes"] <= 10
    assert config["provider"]["cache_stopped_nodes"] is False


def test_nothing_listens_to_the_world(cloud, config):
    text = text_of(cloud)
    assert "0.0.0.0" not in text
    for command in config["head_start_ray_commands"]:
        if "ray start" in command:
            assert "--dashboard-host=127.0.0.1" in command
    if cloud == "aws":
        for group in config["available_node_types"].values():
            # Without a group of our own Ray makes one with SSH from everywhere.
            assert group["node_config"]["SecurityGroupIds"] == ["@SECURITY_GROUP@"]
    else:
        assert config["provider"]["use_internal_ips"] is True
        assert config["auth"]["ssh_proxy_use_node_id"] is True
        for group in config["available_node_types"].values():
            for interface in group["node_config"]["networkInterfaces"]:
                assert "accessConfigs" not in interface  # an address in the internet
                assert interface["subnetwork"].endswith("/diffmix")


def test_every_ray_process_asks_for_the_token(config):
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        if "ray start" in command:
            assert "RAY_AUTH_MODE=token" in command
    assert "RAY_AUTH_MODE=token" in (ROOT / "clusters/node/setup.sh").read_text()


def test_every_machine_ends_itself_when_idle(cloud, config):
    head, worker = config["head_setup_commands"][-1], config["worker_setup_commands"][-1]
    assert re.search(r"watch\.sh head \d+ ", head)
    assert re.search(r"watch\.sh worker \d+ ", worker)
    for group in config["available_node_types"].values():
        node = group["node_config"]
        if cloud == "aws":
            assert node["InstanceInitiatedShutdownBehavior"] == "terminate"
            assert all(d["Ebs"]["DeleteOnTermination"] for d in node["BlockDeviceMappings"])
        else:
            assert all(disk["autoDelete"] for disk in node["disks"])
            assert "delete_self.sh" in head
            assert "delete_self.sh" in worker


def test_files_that_the_commands_name_exist(config):
    lists = (config[f"{role}setup_commands"] for role in ("", "head_", "worker_"))
    commands = " ".join(command for one in lists for command in one)
    names = re.findall(r"diffmix/(clusters/\S+)", commands)
    assert names
    assert all((ROOT / name).is_file() for name in names)
    module, _, name = config["provider"]["module"].rpartition(".")
    source = ROOT / (module.replace(".", "/") + ".py")
    assert f"class {name}(" in source.read_text()


def test_rays_own_steps_before_and_after_the_start_take_the_file(config, tmp_path):
    """`ray up` prepares and hashes the file; the head's autoscaler (v2) reads what came of it."""
    from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    prepared = prepare_config(config)
    validate_config(prepared)
    hash_runtime_conf({}, [], prepared)
    prepared["file_mounts"] = {}
    read = AutoscalingConfig(prepared, skip_content_hash=True)
    groups = read.get_node_type_configs()
    assert groups["mix"].labels == MIX_LABEL
    assert groups["train"].labels == TRAIN_LABEL
    assert (groups["mix"].min_worker_nodes, groups["mix"].max_worker_nodes) == (0, 8)
    assert groups["head"].resources == {"CPU": 0, "GPU": 0}
    assert read.get_idle_timeout_s() == 180
    commands = read.get_worker_setup_commands("mix")
    assert "setup.sh" in commands[0]
    assert "watch.sh worker" in commands[-1]
