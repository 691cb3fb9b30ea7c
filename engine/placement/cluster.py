"""Connecting to Ray, and checking that what the job asks for is there before anything costly
starts.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass

import ray

from diffmix.config import Config, PlacementConfig
from diffmix.errors import UserError, reason

log = logging.getLogger(__name__)

GENERATE_LABEL = {"ray-subcluster": "gen"}
TRAIN_LABEL = {"ray-subcluster": "train"}


@dataclass(frozen=True)
class Demand:
    """What the job holds at its peak, in Ray's resources."""

    mixer_gpus: float
    trainer_gpus: float
    mixer_cpus: float
    trainer_cpus: float
    staged: bool

    @property
    def gpus(self) -> float:
        parts = (self.mixer_gpus, self.trainer_gpus)
        return max(parts) if self.staged else sum(parts)

    @property
    def cpus(self) -> float:
        parts = (self.mixer_cpus, self.trainer_cpus)
        return max(parts) if self.staged else sum(parts)


def demand(config: Config, mixes: bool = True, trains: bool = True) -> Demand:
    """The least that these phases need: the pool's smallest size and all train workers; one of each
    where the split is chosen later.
    """
    mixers, trainers = _counts(config.placement, mixes, trains)
    place = config.placement
    return Demand(
        mixers * place.gpus_per_mixer,
        trainers * place.gpus_per_trainer,
        # One more for the tasks that read sources; without it they would wait for the actors for
        # ever.
        mixers * place.cpus_per_mixer + mixes,
        trainers * place.cpus_per_trainer,
        config.run.mode == "staged",
    )


def _counts(place: PlacementConfig, mixes: bool, trains: bool) -> tuple[int, int]:
    """The fewest mixers and the train workers."""
    return (1 if place.auto else place.mixers[0]) * mixes, (
        1 if place.auto else place.trainers
    ) * trains


def connect(config: Config) -> None:
    """Join the cluster that the configuration or the surrounding job names, or start one on this
    machine.

    A cluster started here gets as many logical GPUs as the job needs where the machine has no CUDA,
    so that the same job runs on a laptop. `UserError` where the named cluster does not answer. Does
    nothing when Ray is connected.
    """
    if ray.is_initialized():
        return
    address = config.run.address or os.environ.get("RAY_ADDRESS")
    common = {
        "log_to_driver": os.environ.get("DIFFMIX_WORKER_LOGS") == "1",
        "logging_level": logging.WARNING,
        "namespace": "diffmix",
    }
    if address and address != "local":
        try:
            ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"No Ray cluster answers at {address} ({reason(error)}); start one or leave out --run.address."
            ) from error
        return
    import torch

    need = demand(config)
    place = config.placement
    most = place.mixers[-1] * place.gpus_per_mixer + place.trainers * place.gpus_per_trainer
    personalizers = place.personalizers * place.gpus_per_trainer
    logical = int(max(need.gpus, most, personalizers) + 0.999)
    most_cpus = place.mixers[-1] * place.cpus_per_mixer + place.trainers * place.cpus_per_trainer
    personalizing_cpus = place.personalizers * place.cpus_per_trainer
    cpus = max(os.cpu_count() or 1, int(max(need.cpus, most_cpus, personalizing_cpus)) + 2)
    ray.init(
        address="local",
        num_gpus=torch.cuda.device_count() or logical,
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=_object_store_bytes(),
        # Ray would start an idle worker for each logical CPU, of which a laptop has more than real
        # ones.
        _system_config={"prestart_worker_first_driver": False},
        **common,
    )


def _object_store_bytes() -> int:
    """A local object store only ever holds chunks in flight: a tenth of the memory, between 200 MB
    and 4 GB.
    """
    import psutil

    return int(min(4e9, max(2e8, psutil.virtual_memory().total * 0.1)))


def preflight(
    config: Config, *, personalizes: bool = False, mixes: bool = False, trains: bool = False
) -> None:
    """Raise `UserError` where the cluster cannot hold the phases that are asked for, mixing and
    training at once, and say what is missing.

    Ray would wait without an error: the train workers would hold what the mixers need, or the other
    way round. A cluster that grows counts at the size that its autoscaler may bring it to.
    """
    need, place = demand(config, mixes, trains), config.placement
    mixers, trainers = _counts(place, mixes, trains)
    have = _cluster_resources()
    for name, wanted, parts in (
        ("GPUs", need.gpus, (need.mixer_gpus, need.trainer_gpus)),
        ("CPUs", need.cpus, (need.mixer_cpus, need.trainer_cpus)),
    ):
        available = have.get(name[:-1], 0.0)
        if wanted > available + 1e-9:
            raise UserError(
                f"The job needs {wanted:g} {name} ({parts[0]:g} for {mixers} mixers, {parts[1]:g} for {trainers} train workers) "
                f"but the cluster has {available:g}; lower --placement.mixers or --placement.trainers"
                + (", use --run.mode staged" if mixes and trains and not need.staged else "")
                + ", or add nodes."
            )
    personalizers = place.personalizers * personalizes
    for name, each in (("GPU", place.gpus_per_trainer), ("CPU", place.cpus_per_trainer)):
        available = have.get(name, 0.0)
        if personalizers * each > available + 1e-9:
            raise UserError(
                f"--placement.personalizers {personalizers} needs {personalizers * each:g} {name}s but the cluster has "
                f"{available:g}; lower it or add nodes."
            )
    if place.separate:
        _check_label(GENERATE_LABEL, mixers * place.gpus_per_mixer)
        _check_label(TRAIN_LABEL, max(trainers, personalizers) * place.gpus_per_trainer)
    else:
        _check_no_labels()


def _check_no_labels() -> None:
    """Raise `UserError` where GPUs are on labeled nodes: Ray Data counts none of them for a stream
    without a label.
    """
    key = next(iter(GENERATE_LABEL))
    if any(
        node["Alive"] and key in node.get("Labels", {}) and node["Resources"].get("GPU")
        for node in ray.nodes()
    ):
        raise UserError(
            f"The cluster's nodes are labeled {key}, which keeps mixers and train workers apart; set --placement.separate True, "
            "or start them without --labels."
        )


def _check_label(label: dict[str, str], wanted: float) -> None:
    """Raise `UserError` where the nodes with this label have fewer than `wanted` GPUs."""
    ((key, value),) = label.items()
    nodes = [
        node for node in ray.nodes() if node["Alive"] and node.get("Labels", {}).get(key) == value
    ]
    gpus = sum(node["Resources"].get("GPU", 0.0) for node in nodes)
    if gpus < wanted:
        raise UserError(
            f"--placement.separate wants {wanted:g} GPUs on nodes labeled {key}={value}, but {len(nodes)} such nodes have {gpus:g}; "
            "label more nodes when they are started (ray start --labels) or switch it off."
        )


def _cluster_resources() -> dict[str, float]:
    """What the cluster has, or may grow to where an autoscaler says so."""
    resources = dict(ray.cluster_resources())
    with contextlib.suppress(
        Exception
    ):  # a private call: without it the cluster counts as it stands
        from ray._private.state import state

        for name, most in (state.get_max_resources_from_cluster_config() or {}).items():
            resources[name] = max(resources.get(name, 0.0), most)
    return resources


def available_gpus() -> float:
    """The cluster's GPUs, or those that it may grow to."""
    return _cluster_resources().get("GPU", 0.0)


def has_accelerators() -> bool:
    """Whether the cluster's GPUs are devices and not only numbers: Ray adds an `accelerator_type`
    resource where it found one.
    """
    return any(name.startswith("accelerator_type:") for name in ray.cluster_resources())
