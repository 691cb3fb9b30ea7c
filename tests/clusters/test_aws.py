"""Covers clusters/aws/prepare.py, spot_first.py and down.py against a stand-in for AWS (moto),
through the code of Ray that `ray up` runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import urllib.parse
from pathlib import Path

import boto3
import pytest
import yaml

pytest.importorskip("moto")
from moto import mock_aws

from clusters.aws import down, prepare
from clusters.aws.spot_first import SpotFirst

REGION = "us-east-1"
SSH_FROM = "203.0.113.7/32"


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """A stand-in for AWS; its machines are ended after each test, the rest stays."""
    from ray.autoscaler._private.aws import utils

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "none")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        # Ray writes the key of the machines to ~/.ssh.
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        utils.resource_cache.cache_clear()
        utils.client_cache.cache_clear()
        yield boto3.client("ec2", region_name=REGION)


@pytest.fixture
def aws(account):
    yield account
    running = [instance["InstanceId"] for instance in instances(account)]
    if running:
        account.terminate_instances(InstanceIds=running)


@pytest.fixture(scope="module")
def image(account) -> str:
    return account.describe_images()["Images"][0]["ImageId"]


def prepared(image: str, ssh_from: str = SSH_FROM) -> dict:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        prepare.main(
            ["--region", REGION, "--ssh-from", ssh_from, "--bucket", "birds", "--image", image]
        )
    return yaml.safe_load(printed.getvalue())


@pytest.fixture(scope="module")
def config(account, image) -> dict:
    return prepared(image)


@pytest.fixture(scope="module")
def bootstrapped(config) -> dict:
    """What `ray up` makes of the file before it starts the head."""
    from ray.autoscaler._private.commands import _bootstrap_config

    return _bootstrap_config(config, no_config_cache=True)


def start(config: dict, group: str, count: int = 1) -> SpotFirst:
    provider = SpotFirst(config["provider"], config["cluster_name"])
    tags = {"ray-user-node-type": group, "ray-node-kind": "worker"}
    node = config["available_node_types"][group]["node_config"]
    for _ in range(count):  # the stand-in gives one machine a request, however many are asked for
        provider.create_node(dict(node), tags, 1)
    return provider


def instances(ec2) -> list[dict]:
    """Machines that have not ended."""
    alive = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    found = ec2.describe_instances(Filters=alive)["Reservations"]
    return [instance for reservation in found for instance in reservation["Instances"]]


def refuse_spot(monkeypatch, code: str = "InsufficientInstanceCapacity") -> None:
    """AWS refuses every request for spot machines from now on."""
    make = SpotFirst.__mro__[1]._create_node

    def without_spot(self, node_config, tags, count):
        if "InstanceMarketOptions" in node_config:
            from ray.autoscaler.node_launch_exception import NodeLaunchException

            raise NodeLaunchException(code, "no capacity", None)
        return make(self, node_config, tags, count)

    monkeypatch.setattr(SpotFirst.__mro__[1], "_create_node", without_spot)


def test_the_group_opens_ssh_to_one_range_and_nothing_else(aws, config):
    groups = aws.describe_security_groups(GroupNames=["diffmix"])["SecurityGroups"]
    rules = groups[0]["IpPermissions"]
    opened = [(r.get("FromPort"), i["CidrIp"]) for r in rules for i in r.get("IpRanges", [])]
    assert opened == [(22, SSH_FROM)]
    within = [pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]]
    assert within == [groups[0]["GroupId"]]


def test_preparing_again_replaces_the_range(aws, config, image):
    new = "198.51.100.0/24"
    assert prepared(image, new) == config
    rules = aws.describe_security_groups(GroupNames=["diffmix"])["SecurityGroups"][0]
    ranges = [i["CidrIp"] for r in rules["IpPermissions"] for i in r.get("IpRanges", [])]
    assert ranges == [new]
    prepared(image)


def test_a_range_that_is_most_of_the_world_is_refused():
    with pytest.raises(SystemExit, match="most of the world"):
        prepare.main(["--region", REGION, "--ssh-from", "0.0.0.0/0", "--bucket", "b"])


def test_only_the_head_may_start_machines_and_only_one_bucket_is_reached(config):
    iam = boto3.client("iam")
    policies = {}
    for role in ("diffmix-head", "diffmix-node"):
        document = iam.get_role_policy(RoleName=role, PolicyName="diffmix")["PolicyDocument"]
        if isinstance(document, str):
            document = json.loads(urllib.parse.unquote(document))
        policies[role] = json.dumps(document)
    assert "ec2:RunInstances" in policies["diffmix-head"]
    assert "ec2:" not in policies["diffmix-node"]
    for policy in policies.values():
        assert "arn:aws:s3:::birds/*" in policy
        assert "s3:*" not in policy


def test_ray_takes_the_file_and_makes_no_group_of_its_own(aws, bootstrapped):
    names = {g["GroupName"] for g in aws.describe_security_groups()["SecurityGroups"]}
    assert names == {"default", "diffmix"}
    assert bootstrapped["available_node_types"]["mix"]["labels"] == {"ray-subcluster": "gen"}
    assert bootstrapped["available_node_types"]["head"]["resources"]["CPU"] == 0
    assert bootstrapped["available_node_types"]["train"]["node_config"]["SubnetIds"]


def test_mixing_machines_are_spot_and_train_machines_are_not(aws, bootstrapped):
    start(bootstrapped, "mix", 2)
    start(bootstrapped, "train")
    kinds = [instance.get("InstanceLifecycle") for instance in instances(aws)]
    assert sorted(kinds, key=str) == [None, "spot", "spot"]


def test_without_spot_capacity_machines_are_asked_for_on_demand_up_to_the_limit(
    aws, bootstrapped, monkeypatch
):
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    refuse_spot(monkeypatch)
    with pytest.raises(NodeLaunchException):
        start(bootstrapped, "mix", 5)
    assert [i.get("InstanceLifecycle") for i in instances(aws)] == [None, None]


def test_another_error_is_not_answered_with_on_demand(aws, bootstrapped, monkeypatch):
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    refuse_spot(monkeypatch, "UnauthorizedOperation")
    with pytest.raises(NodeLaunchException):
        start(bootstrapped, "mix")
    assert not instances(aws)


def test_down_ends_everything_of_this_cluster_and_says_so(
    aws, bootstrapped, tmp_path, image, capsys
):
    start(bootstrapped, "mix", 2)
    start(bootstrapped, "train")
    aws.run_instances(ImageId=image, MinCount=1, MaxCount=1)  # somebody else's
    path = Path(tmp_path / "aws.yaml")
    path.write_text(yaml.safe_dump({"cluster_name": "diffmix", "provider": {"region": REGION}}))
    assert down.main(str(path)) == 0
    said = capsys.readouterr().out
    assert "Ended 3 machines" in said
    assert "Nothing is left" in said
    assert len(instances(aws)) == 1


def test_down_says_what_it_could_not_end(aws, bootstrapped):
    start(bootstrapped, "train")

    class Stuck:
        def __getattr__(self, name):
            return (lambda **_: None) if name == "terminate_instances" else getattr(aws, name)

    ended, left = down.down(Stuck(), "diffmix", patience=0)
    assert ended == 1
    assert [name.split("-")[0] for name in left] == ["i", "vol"]


def test_a_missing_default_network_is_named():
    class NoNetwork:
        def describe_vpcs(self, **_):
            return {"Vpcs": []}

    with pytest.raises(SystemExit, match="create-default-vpc"):
        prepare.security_group(NoNetwork(), SSH_FROM)
