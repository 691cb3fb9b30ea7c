"""Whether the cluster has room for the job, before anything costly starts."""

from __future__ import annotations

import ray

from diffmix.config import Config
from diffmix.errors import UserError
from engine.placement.cluster import LABEL, MIX_LABEL, TRAIN_LABEL, check_shared_gpus, resources
from engine.placement.demand import Demand, demand

_ROUNDING = 1e-9  # sums of fractions of GPUs


def check_room(
    config: Config, *, personalizes: bool = False, mixes: bool = False, trains: bool = False
) -> None:
    """Raise `UserError` where the cluster cannot hold the named phases, mixing and training at
    once, and say what is missing.

    Ray would wait without an error: the train workers would hold what the mixers need, or the other
    way round. A cluster that grows counts at the size that its autoscaler may bring it to.
    """
    placement, need = config.placement, demand(config, mixes, trains)
    has = resources()
    overlapped = mixes and trains and not need.staged
    _check_sum("GPU", need.gpus, (need.mixer_gpus, need.trainer_gpus), need, has, overlapped)
    _check_sum("CPU", need.cpus, (need.mixer_cpus, need.trainer_cpus), need, has, overlapped)
    personalizers = placement.personalizers * personalizes
    check_shared_gpus(config, max(personalizers, placement.trainers * trains))
    _check_personalizers("GPU", personalizers, placement.gpus_per_trainer, has)
    _check_personalizers("CPU", personalizers, placement.cpus_per_trainer, has)
    if placement.separate:
        workers = max(need.trainers, personalizers)
        _check_label(MIX_LABEL, need.mixer_gpus)
        _check_label(TRAIN_LABEL, workers * placement.gpus_per_trainer)
    else:
        _check_no_labels()


def _check_sum(
    name: str,
    wanted: float,
    parts: tuple[float, float],
    need: Demand,
    has: dict[str, float],
    overlapped: bool,
) -> None:
    available = has.get(name, 0.0)
    if wanted <= available + _ROUNDING:
        return
    staged = ", use --run.mode staged" if overlapped else ""
    raise UserError(
        f"The job needs {wanted:g} {name}s ({parts[0]:g} for {need.mixers} mixers, {parts[1]:g} "
        f"for {need.trainers} train workers) but the cluster has {available:g}; lower "
        f"--placement.mixers or --placement.trainers{staged}, or add nodes."
    )


def _check_personalizers(name: str, workers: int, each: float, has: dict[str, float]) -> None:
    available = has.get(name, 0.0)
    if workers * each > available + _ROUNDING:
        raise UserError(
            f"--placement.personalizers {workers} needs {workers * each:g} {name}s but the cluster "
            f"has {available:g}; lower it or add nodes."
        )


def _check_no_labels() -> None:
    """Raise `UserError` where GPUs are on labeled nodes: Ray Data counts none of them for a stream
    without a label.
    """
    for node in ray.nodes():
        labels, gpus = node.get("Labels", {}), node["Resources"].get("GPU")
        if node["Alive"] and LABEL in labels and gpus:
            raise UserError(
                f"The cluster's nodes are labeled {LABEL}, which keeps mixers and train workers "
                "apart; set --placement.separate True, or start them without --labels."
            )


def _check_label(label: dict[str, str], wanted: float) -> None:
    """Raise `UserError` where the nodes with this label have fewer than `wanted` GPUs."""
    value = label[LABEL]
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in alive if node.get("Labels", {}).get(LABEL) == value]
    gpus = sum(node["Resources"].get("GPU", 0.0) for node in nodes)
    if gpus < wanted:
        raise UserError(
            f"--placement.separate wants {wanted:g} GPUs on nodes labeled {LABEL}={value}, but "
            f"{len(nodes)} such nodes have {gpus:g}; label more nodes when they are started "
            "(ray start --labels) or switch it off."
        )
