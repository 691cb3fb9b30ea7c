"""`python clusters/aws/prepare.py --region R --ssh-from CIDR --bucket B > aws.yaml`: make what the
launcher file needs and print it filled in.

Makes, where they are missing: the security group `diffmix` (SSH from one address range, everything
between its own members, nothing else), the roles `diffmix-head` (may start and end machines) and
`diffmix-node` (may not), both with access to one bucket, and the account's role for spot requests.
Nothing here costs money.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

TEMPLATE = Path(__file__).with_name("cluster.yaml")
# An Ubuntu with NVIDIA's driver; the newest one of this kind in the region.
IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
NAME = "diffmix"


def filled(region: str, image: str, security_group: str) -> str:
    """The launcher file with its three words filled in."""
    text = TEMPLATE.read_text()
    words = {"@REGION@": region, "@IMAGE@": image, "@SECURITY_GROUP@": security_group}
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def security_group(ec2: Any, ssh_from: str) -> str:
    """The id of the group `diffmix` in the default VPC, with the two rules and no other."""
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise SystemExit("The region has no default VPC: `aws ec2 create-default-vpc` makes one.")
    vpc = vpcs[0]["VpcId"]
    filters = [{"Name": "group-name", "Values": [NAME]}, {"Name": "vpc-id", "Values": [vpc]}]
    groups = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    if groups:
        group = groups[0]["GroupId"]
        if groups[0]["IpPermissions"]:
            ec2.revoke_security_group_ingress(
                GroupId=group, IpPermissions=groups[0]["IpPermissions"]
            )
    else:
        made = ec2.create_security_group(GroupName=NAME, Description=NAME, VpcId=vpc)
        group = made["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from}]}
    within = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh, within])
    return group


def roles(iam: Any, bucket: str) -> None:
    """The roles and instance profiles `diffmix-head` and `diffmix-node`."""
    storage = [
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"},
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            "Resource": f"arn:aws:s3:::{bucket}/*",
        },
    ]
    node = _role(iam, f"{NAME}-node", storage)
    machines = [
        {
            "Effect": "Allow",
            "Action": ["ec2:Describe*", "ec2:RunInstances", "ec2:CreateTags"],
            "Resource": "*",
        },
        {
            "Effect": "Allow",
            "Action": "ec2:TerminateInstances",
            "Resource": "*",
            "Condition": {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": NAME}},
        },
        {"Effect": "Allow", "Action": "iam:PassRole", "Resource": node},
    ]
    _role(iam, f"{NAME}-head", storage + machines)


def _role(iam: Any, name: str, statements: list[dict[str, Any]]) -> str:
    """Make a role for EC2 and its profile, write its policy; gives the role's ARN."""
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "ec2.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    try:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    except iam.exceptions.EntityAlreadyExistsException:
        pass
    policy = {"Version": "2012-10-17", "Statement": statements}
    iam.put_role_policy(RoleName=name, PolicyName=NAME, PolicyDocument=json.dumps(policy))
    return iam.get_role(RoleName=name)["Role"]["Arn"]


def spot_role(iam: Any) -> None:
    """The account's role for spot requests: an account that never used spot lacks it."""
    try:
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    except ClientError as error:
        # AWS says "has been taken in this account" with InvalidInput.
        if error.response["Error"]["Code"] not in {"InvalidInput", "EntityAlreadyExists"}:
            raise


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument(
        "--ssh-from", required=True, help="who may log in: your address as N.N.N.N/32"
    )
    parser.add_argument("--bucket", required=True, help="the bucket of data and run folders")
    parser.add_argument(
        "--image", help="a machine image with NVIDIA's driver, instead of AWS's own"
    )
    options = parser.parse_args(words)
    if ipaddress.ip_network(options.ssh_from).prefixlen < 8:
        raise SystemExit(
            f"--ssh-from {options.ssh_from} is most of the world; give your own range."
        )

    image = options.image
    if image is None:
        ssm = boto3.client("ssm", region_name=options.region)
        image = ssm.get_parameter(Name=IMAGE)["Parameter"]["Value"]
    iam = boto3.client("iam", region_name=options.region)
    roles(iam, options.bucket)
    spot_role(iam)
    group = security_group(boto3.client("ec2", region_name=options.region), options.ssh_from)
    sys.stdout.write(filled(options.region, image, group))


if __name__ == "__main__":
    main()
