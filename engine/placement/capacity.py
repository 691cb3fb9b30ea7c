"""What the cluster has, and what it may grow to."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from diffmix.config import PlacementConfig
from diffmix.errors import reason
from diffmix.options.markers import numbers
from engine.placement.cluster import LABEL
from engine.placement.ray_internals import GROUP_LABEL, autoscaler_config

log = logging.getLogger(__name__)

_ROUNDING = 1e-9  # sums of fractions of GPUs


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that is there or may come."""

    resources: dict[str, float]
    """Ray's resources, such as `{"GPU": 1.0, "CPU": 8.0}`. A resource that is unknown is infinite.
    """
    labels: dict[str, str]

    def fits(self, gpus: float, cpus: float) -> int:
        """How many workers that take so much the node has room for."""
        rooms = []
        for name, each in (("GPU", gpus), ("CPU", cpus)):
            if each > 0:
                rooms.append(self.resources.get(name, 0.0) / each + _ROUNDING)
        room = min(rooms, default=math.inf)
        return 1_000_000 if math.isinf(room) else int(room)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The nodes that a job may count on."""

    nodes: Sequence[Node]
    grows: bool
    """Whether nodes come when they are asked for. Otherwise the nodes are those that are there."""

    def total(self, resource: str, label: str | None = None) -> float:
        """A resource's sum over the nodes, or over those with the value `label`."""
        return sum(node.resources.get(resource, 0.0) for node in self.labeled(label))

    def labeled(self, label: str | None) -> list[Node]:
        """The nodes whose label `ray-subcluster` has this value; all for None."""
        return [node for node in self.nodes if label is None or node.labels.get(LABEL) == label]


def live() -> Capacity:
    """The nodes that are there."""
    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            nodes.append(Node(resources=node["Resources"], labels=node.get("Labels", {})))
    return Capacity(nodes=nodes, grows=False)


def capacity(placement: PlacementConfig) -> Capacity:
    """What the cluster may grow to: as `placement.cluster_max` says, else as its autoscaler's file
    says. Without both, the nodes that are there.

    Nodes that an autoscaler did not start are counted beside its groups.
    """
    there = live()
    if placement.cluster_max:
        given = numbers(placement.cluster_max)
        rest = [node for node in there.nodes if node.labels.get(LABEL) not in given]
        return Capacity(nodes=[*rest, *_given(given)], grows=True)
    try:
        config = autoscaler_config()
    except Exception as error:  # it only lets the job count on more nodes than are there
        log.warning("The cluster's autoscaler could not be asked (%s).", reason(error))
        config = None
    if config is None:
        return there
    types = config.get("available_node_types", {})
    head = config.get("head_node_type")
    groups = {name: kind for name, kind in types.items() if name != head}
    nodes = [node for node in there.nodes if node.labels.get(GROUP_LABEL) not in groups]
    every = config.get("max_workers", 0)
    for kind in groups.values():
        number = min(kind.get("max_workers", every), every or math.inf)
        one = Node(resources=dict(kind.get("resources", {})), labels=dict(kind.get("labels", {})))
        nodes += [one] * int(number)
    return Capacity(nodes=nodes, grows=True)


def _given(most: dict[str, float]) -> list[Node]:
    """`placement.cluster_max` as nodes of one GPU, about which nothing else is known."""
    nodes = []
    for label, gpus in most.items():
        one = Node(
            resources={"GPU": 1.0, "CPU": math.inf},
            labels={} if label == "any" else {LABEL: label},
        )
        nodes += [one] * int(gpus)
    return nodes
