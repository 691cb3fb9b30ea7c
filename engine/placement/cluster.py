"""Connecting to Ray."""

from __future__ import annotations

import logging
import os
import sys

import ray
import ray.job_config

from diffmix.config import Config
from diffmix.errors import UserError, reason
from engine.placement.demand import Demand, demand
from engine.placement.ray_internals import (
    FEW_WORKERS_AT_START,
    on_loopback,
    own_sigterm,
    search_only_the_drivers_path,
)
from engine.placement.sockets import ray_folder

log = logging.getLogger(__name__)

NAMESPACE = "diffmix"
LOOPBACK = "127.0.0.1"
LABEL = "ray-subcluster"
MIX_LABEL = {LABEL: "gen"}
"""Label of the nodes that mixers run on, with `placement.separate`."""
TRAIN_LABEL = {LABEL: "train"}
"""Label of the nodes that train workers run on, with `placement.separate`."""


def connect(config: Config) -> None:
    """Join the cluster that the configuration or the surrounding job names, or start one on this
    machine. Does nothing where Ray is connected already.

    A cluster started here gets as many logical GPUs as the job needs where the machine has no CUDA,
    so that the same job runs on a laptop. `UserError` where the named cluster does not answer.
    """
    if ray.is_initialized():
        return
    address = config.run.address or os.environ.get("RAY_ADDRESS")
    common = {
        "job_config": _job_config(),
        "log_to_driver": config.run.verbose,
        "logging_level": logging.WARNING,
        "namespace": NAMESPACE,
    }
    if address and address != "local":
        try:
            with own_sigterm():
                ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"No Ray cluster answers at {address} ({reason(error)}); start one or leave out "
                "--run.address."
            ) from error
        return
    import torch

    size = _local_size(config, demand(config))
    with own_sigterm(), on_loopback():
        ray.init(
            address="local",
            _node_ip_address=LOOPBACK,
            num_gpus=torch.cuda.device_count() or size["GPU"],
            num_cpus=max(os.cpu_count() or 1, size["CPU"] + 2),
            include_dashboard=False,
            _temp_dir=ray_folder(),
            object_store_memory=_object_store_bytes(),
            _system_config=FEW_WORKERS_AT_START,
            **common,
        )


def _job_config() -> ray.job_config.JobConfig:
    """The job's settings, with the driver's search path for modules and nothing before it.

    Ray puts the driver's current folder first on every worker's path, also where the driver itself
    does not look there, as the console script does not. A user's own `engine.py` or `datasets/` in
    that folder would then hide ours or a library's from the workers.
    """
    job_config = ray.job_config.JobConfig()
    here = os.path.realpath(os.curdir)
    if here not in {os.path.realpath(folder) for folder in sys.path}:
        search_only_the_drivers_path(job_config)
    return job_config


def _local_size(config: Config, need: Demand) -> dict[str, int]:
    """Logical GPUs and CPUs of a cluster on this machine: enough for the largest pool of mixers
    beside the train workers, and for the personalization workers before them.
    """
    placement = config.placement
    mixers, trainers = placement.mixers[-1], placement.trainers
    personalizers = placement.personalizers
    gpus = (
        need.gpus,
        mixers * placement.gpus_per_mixer + trainers * placement.gpus_per_trainer,
        personalizers * placement.gpus_per_trainer,
    )
    cpus = (
        need.cpus,
        mixers * placement.cpus_per_mixer + trainers * placement.cpus_per_trainer,
        personalizers * placement.cpus_per_trainer,
    )
    return {"GPU": int(max(gpus) + 0.999), "CPU": int(max(cpus))}


def _object_store_bytes() -> int:
    """A local object store only holds chunks in flight: a tenth of the memory, between 200 MB and
    4 GB.
    """
    import psutil

    return int(min(4e9, max(2e8, psutil.virtual_memory().total * 0.1)))


def has_accelerators() -> bool:
    """Whether the cluster's GPUs are devices and not only numbers: Ray adds an `accelerator_type`
    resource where it found one.
    """
    return any(name.startswith("accelerator_type:") for name in ray.cluster_resources())


def check_shared_gpus(config: Config, workers: int) -> None:
    """Raise `UserError` where `workers` of one group would share a GPU. NCCL refuses two ranks on a
    device, and does so hours later. Logical GPUs may be shared.
    """
    each = config.placement.gpus_per_trainer
    if workers > 1 and 0 < each < 1 and has_accelerators():
        raise UserError(
            f"--placement.gpus_per_trainer is {each:g} with {workers} workers, but the workers of "
            "one group cannot share a GPU; set it to 1, or use one worker."
        )
