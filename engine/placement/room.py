"""Whether the cluster has room for the job, before anything costly starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from diffmix.config import Config
from diffmix.errors import UserError
from engine.placement.capacity import Capacity, capacity
from engine.placement.cluster import LABEL, MIX_LABEL, TRAIN_LABEL, check_shared_gpus
from engine.placement.demand import Demand, demand

_ROUNDING = 1e-9  # sums of fractions of GPUs
_LOOK_SECONDS = 2.0
_READER_CPUS = 1  # of a task that reads the sources of mixes


def wait_for_room(
    config: Config,
    *,
    personalizes: bool = False,
    mixes: bool = False,
    trains: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> Capacity:
    """What the job may count on, once that is enough for the named phases.

    On a cluster that grows the nodes may come later, so nothing is waited for here. On one of a
    fixed size it waits `placement.wait_minutes` for nodes that are added, and says so. Raises
    `UserError` where the job does not fit.
    """
    end = time.monotonic() + 60 * (config.placement.wait_minutes or 0)
    said = False
    while True:
        has = capacity(config.placement)
        try:
            check_room(config, has, personalizes=personalizes, mixes=mixes, trains=trains)
        except UserError as error:
            if has.grows or time.monotonic() >= end:
                raise
            if not said:
                said = True
                print(
                    f"waiting up to {config.placement.wait_minutes:g} minutes for nodes: {error}",
                    file=sys.stderr,
                    flush=True,
                )
            pause(_LOOK_SECONDS)
            continue
        return has


def check_room(
    config: Config,
    has: Capacity,
    *,
    personalizes: bool = False,
    mixes: bool = False,
    trains: bool = False,
) -> None:
    """Raise `UserError` where the cluster cannot hold the named phases, mixing and training at
    once, and say what is missing.

    Ray would wait without an error: the train workers would hold what the mixers need, or the other
    way round.
    """
    placement, need = config.placement, demand(config, mixes, trains)
    overlapped = mixes and trains and not need.staged
    _check_sum("GPU", need.gpus, (need.mixer_gpus, need.trainer_gpus), need, has, overlapped)
    _check_sum("CPU", need.cpus, (need.mixer_cpus, need.trainer_cpus), need, has, overlapped)
    personalizers = placement.personalizers * personalizes
    check_shared_gpus(config, max(personalizers, placement.trainers * trains))
    _check_personalizers("GPU", personalizers, placement.gpus_per_trainer, has)
    _check_personalizers("CPU", personalizers, placement.cpus_per_trainer, has)
    if placement.separate:
        workers = max(need.trainers, personalizers)
        _check_label(MIX_LABEL, need.mixer_gpus, has)
        _check_label(TRAIN_LABEL, workers * placement.gpus_per_trainer, has)
        _check_readers(config, need, has)
    else:
        _check_no_labels(has)


def _check_sum(
    name: str,
    wanted: float,
    parts: tuple[float, float],
    need: Demand,
    has: Capacity,
    overlapped: bool,
) -> None:
    available = has.total(name)
    if wanted <= available + _ROUNDING:
        return
    staged = ", use --run.mode staged" if overlapped else ""
    raise UserError(
        f"The job needs {wanted:g} {name}s ({parts[0]:g} for {need.mixers} mixers, {parts[1]:g} "
        f"for {need.trainers} train workers) but the cluster {_has(has)} {available:g}; lower "
        f"--placement.mixers or --placement.trainers{staged}, or add nodes."
    )


def _has(has: Capacity) -> str:
    return "may grow to" if has.grows else "has"


def _check_personalizers(name: str, workers: int, each: float, has: Capacity) -> None:
    available = has.total(name)
    if workers * each > available + _ROUNDING:
        raise UserError(
            f"--placement.personalizers {workers} needs {workers * each:g} {name}s but the cluster "
            f"{_has(has)} {available:g}; lower it or add nodes."
        )


def _check_no_labels(has: Capacity) -> None:
    """Raise `UserError` where GPUs are on labeled nodes: Ray Data counts none of them for a stream
    without a label.
    """
    for node in has.nodes:
        if LABEL in node.labels and node.resources.get("GPU"):
            raise UserError(
                f"The cluster's nodes are labeled {LABEL}, which keeps mixers and train workers "
                "apart; set --placement.separate True, or start them without --labels."
            )


def _check_label(label: dict[str, str], wanted: float, has: Capacity) -> None:
    """Raise `UserError` where the nodes with this label have fewer than `wanted` GPUs."""
    value = label[LABEL]
    nodes, gpus = has.labeled(value), has.total("GPU", value)
    if gpus + _ROUNDING >= wanted:
        return
    if has.grows:
        raise UserError(
            f"--placement.separate wants {wanted:g} GPUs on nodes labeled {LABEL}={value}, but the "
            f"cluster may grow to {gpus:g} such GPUs; raise max_workers of that group or lower "
            "--placement.mixers or --placement.trainers."
        )
    raise UserError(
        f"--placement.separate wants {wanted:g} GPUs on nodes labeled {LABEL}={value}, but "
        f"{len(nodes)} such nodes have {gpus:g}; label more nodes when they are started "
        "(ray start --labels) or switch it off."
    )


def _check_readers(config: Config, need: Demand, has: Capacity) -> None:
    """Raise `UserError` where mixers leave no CPU of the mixing nodes to the tasks that read
    sources: they would wait for ever. Where a node has no room for a single mixer, likewise.
    """
    if not need.mixers:
        return
    placement = config.placement
    each, gpus = placement.cpus_per_mixer, placement.gpus_per_mixer
    nodes = has.labeled(MIX_LABEL[LABEL])
    rooms = [node.fits(gpus, each) for node in nodes]
    largest = max((node.resources.get("CPU", 0.0) for node in nodes), default=0.0)
    if sum(rooms) < need.mixers:
        raise UserError(
            f"Nodes labeled {LABEL}={MIX_LABEL[LABEL]} have room for {sum(rooms)} mixers of "
            f"{gpus:g} GPUs and {each:g} CPUs, but {need.mixers} are asked for; the largest such "
            f"node has {largest:g} CPUs: lower --placement.mixers or --placement.cpus_per_mixer."
        )
    left = []
    for node, room in zip(nodes, rooms, strict=True):
        left.append(node.resources.get("CPU", 0.0) - min(room, placement.mixers[-1]) * each)
    if max(left) + _ROUNDING < _READER_CPUS:
        raise UserError(
            f"--placement.cpus_per_mixer {each:g} leaves no CPU of nodes labeled "
            f"{LABEL}={MIX_LABEL[LABEL]} to the tasks that read the sources of mixes; the largest "
            f"such node has {largest:g} CPUs: lower it so that one CPU is left."
        )
