"""`python clusters/aws/down.py aws.yaml`: end every machine of the cluster and show what is left.

Works without the head and without SSH: it looks for the tag that Ray puts on its machines. Exit
code 0 means that no machine and no disk of the cluster exists any more. Buckets, roles and the
security group stay; they cost nothing by themselves (the bucket's contents do).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import boto3
import yaml

ENDED = {"terminated", "shutting-down"}


def machines(ec2: Any, cluster: str) -> dict[str, str]:
    """The cluster's machines that have not ended: id to state."""
    tag = [{"Name": "tag:ray-cluster-name", "Values": [cluster]}]
    found = {}
    for page in ec2.get_paginator("describe_instances").paginate(Filters=tag):
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                if instance["State"]["Name"] != "terminated":
                    found[instance["InstanceId"]] = instance["State"]["Name"]
    return found


def disks(ec2: Any, machine_ids: list[str]) -> list[str]:
    """Disks that are still attached to these machines."""
    if not machine_ids:
        return []
    attached = [{"Name": "attachment.instance-id", "Values": machine_ids}]
    return [volume["VolumeId"] for volume in ec2.describe_volumes(Filters=attached)["Volumes"]]


def down(ec2: Any, cluster: str, patience: float = 300, pause: float = 5) -> tuple[int, list[str]]:
    """End all machines, wait until they are gone; gives how many there were and what is left."""
    before = machines(ec2, cluster)
    running = [name for name, state in before.items() if state not in ENDED]
    if running:
        ec2.terminate_instances(InstanceIds=running)
    deadline = time.monotonic() + patience
    while machines(ec2, cluster) and time.monotonic() < deadline:
        time.sleep(pause)
    return len(before), [*machines(ec2, cluster), *disks(ec2, list(before))]


def main(path: str) -> int:
    config = yaml.safe_load(Path(path).read_text())
    ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
    ended, left = down(ec2, config["cluster_name"])
    print(f"Ended {ended} machines of `{config['cluster_name']}`.")
    print(f"Left: {', '.join(left)}" if left else "Nothing is left: no machine, no disk.")
    return 1 if left else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python clusters/aws/down.py aws.yaml")
    sys.exit(main(sys.argv[1]))
