"""`placement.elastic`: with how many workers training may go on, and when a restart pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table

from diffmix.classifier.schedule import Schedule
from diffmix.config import PlacementConfig, TrainConfig
from diffmix.errors import UserError
from engine.placement.capacity import Node
from engine.placement.cluster import LABEL, TRAIN_LABEL
from engine.placement.ray_internals import free_resources
from engine.session import Session
from engine.telemetry import Reporter

SURE = 2.0
"""A restart has to save so many times what it costs: n times the workers are not n times as fast.
"""


@dataclass(frozen=True, kw_only=True)
class Elastic:
    """What the train workers and Ray Train's controller are told. Picklable."""

    placement: PlacementConfig
    possible: tuple[int, ...]
    """Numbers of workers that training may go on with, rising."""
    wait_seconds: float
    """How long a lost node is waited for."""
    sure: float
    """`SURE`"""
    reporter: Reporter


def elastic(session: Session) -> Elastic | None:
    """The session's, with `placement.elastic`; None without."""
    config = session.config
    placement = config.placement
    if not placement.elastic:
        return None
    possible = possible_workers(config.train, len(session.data.train), placement.trainers)
    wait = 60 * placement.elastic_minutes if session.capacity.grows else 0.0
    return Elastic(
        placement=placement,
        possible=possible,
        wait_seconds=wait,
        sure=SURE,
        reporter=session.telemetry.reporter,
    )


def possible_workers(options: TrainConfig, real_size: int, workers: int) -> tuple[int, ...]:
    """Numbers of workers, rising, that train on the same global batches as `workers` do, in even
    shares. timm's MixUp and CutMix mix pairs of a share, which has to be even with them.
    """
    usual = Schedule(options, real_size, workers)
    pairs = options.mix_form == "timm" and (options.mixup_alpha or options.cutmix_alpha)
    unit = 2 if pairs else 1
    found = []
    for number in range(1, usual.batch_size + 1):
        if usual.batch_size % (unit * number) or usual.samples % number:
            continue
        try:
            schedule = Schedule(options, real_size, number)
        except UserError:
            continue
        same = (schedule.batch_size, schedule.samples) == (usual.batch_size, usual.samples)
        if same:
            found.append(number)
    return tuple(found)


def most(possible: Sequence[int], room: int) -> int:
    """The largest possible number of workers that `room` holds; 0 where none fits."""
    return max((number for number in possible if number <= room), default=0)


def more_mixers(placement: PlacementConfig, trainers: int) -> int:
    """How many mixers fit in the place of train workers that are done. None with
    `placement.separate`, and none where a mixer takes no GPU.
    """
    if placement.separate or not placement.gpus_per_mixer:
        return 0
    return int(trainers * placement.gpus_per_trainer / placement.gpus_per_mixer)


def saved(seconds: float, left: int, workers: int, more: int) -> float:
    """Seconds that the rest would take less with `more` workers: each of the `left` steps or mixes
    takes `seconds` with n workers, and at best n/m of that with m.
    """
    return seconds * left * (1 - workers / more)


def room(placement: PlacementConfig, own: Mapping[str, int]) -> int:
    """How many train workers the live nodes hold: beside what others use, and in the place of
    `own`, the number of this group's workers on each node, by its id.
    """
    label = TRAIN_LABEL[LABEL] if placement.separate else None
    gpus, cpus = placement.gpus_per_trainer, placement.cpus_per_trainer
    free, found = free_resources(), 0
    for node in ray.nodes():
        labels = node.get("Labels", {})
        if node["Alive"] and (label is None or labels.get(LABEL) == label):
            kept = Node(resources=free.get(node["NodeID"], {}), labels=labels)
            found += kept.fits(gpus, cpus) + own.get(node["NodeID"], 0)
    return found


def places(group: PlacementGroup | None) -> dict[str, int]:
    """The nodes, by their ids, on which a worker group's resources are kept, and for how many of
    its workers. Ray moves those of a dead node to another one as soon as it can.
    """
    found: dict[str, int] = {}
    if group is None:
        return found
    table = placement_group_table(group)
    if table.get("state") == "REMOVED":
        return found
    for node in table.get("bundles_to_node_id", {}).values():
        found[node] = found.get(node, 0) + 1
    return found
