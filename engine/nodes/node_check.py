"""What each node of a cluster has: for `diffmix doctor --run.address`."""

from __future__ import annotations

import os
from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from diffmix.config import Config
from diffmix.storage import Folder
from engine.placement import cluster

_ANSWER_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """One node."""

    name: str
    """Its address, and its label where it has one."""
    versions: dict[str, str | None]
    """Of the packages that matter; None: not installed."""
    cpus: float
    """Ray's CPUs."""
    gpus: float
    """Ray's GPUs."""
    devices: tuple[str, ...]
    """Names of its CUDA devices."""
    free_gb: float
    """On the disk of its temporary folder."""
    sees_out: bool | None
    """Whether it sees the run folder, and may write there; None where none was named."""
    error: str = ""
    """Why it did not answer."""


def check_nodes(config: Config) -> list[NodeFacts]:
    """The facts of every living node of the cluster at `run.address`. Asks with tasks that need no
    CPU, so that a busy node answers, too.

    `UserError` where no cluster answers.
    """
    cluster.connect(config)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    ask = ray.remote(num_cpus=0, max_retries=0)(_facts)
    asked = []
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(ask.options(scheduling_strategy=here).remote(config.out))
    found = []
    for node, answer in zip(nodes, asked, strict=True):
        facts: dict = {"versions": {}, "devices": (), "free_gb": 0.0, "sees_out": None}
        try:
            facts |= ray.get(answer, timeout=_ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            facts["error"] = str(error).strip().splitlines()[-1]
        has, label = node["Resources"], node["Labels"].get(cluster.LABEL)
        name = node["NodeManagerAddress"] + (f" ({label})" if label else "")
        gpus, cpus = has.get("GPU", 0.0), has.get("CPU", 0.0)
        found.append(NodeFacts(name=name, cpus=cpus, gpus=gpus, **facts))
    return found


def _facts(out: str) -> dict:
    """On the node."""
    import shutil
    import tempfile

    import torch

    from diffmix.versions import versions

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions(),
        "devices": tuple(devices),
        "free_gb": shutil.disk_usage(tempfile.gettempdir()).free / 1e9,
        "sees_out": _sees(out) if out else None,
    }


def _sees(out: str) -> bool:
    folder = Folder(out)
    if not folder.is_local:
        return folder.exists()
    return os.path.isdir(folder.path) and os.access(folder.path, os.W_OK)


def differences(nodes: list[NodeFacts]) -> dict[str, list[str | None]]:
    """Packages whose versions are not the same on all nodes that answered -> each node's."""
    answered = [node for node in nodes if not node.error]
    names = dict.fromkeys(name for node in answered for name in node.versions)
    found = {}
    for name in names:
        versions = [node.versions.get(name) for node in answered]
        if len(set(versions)) > 1:
            found[name] = versions
    return found
