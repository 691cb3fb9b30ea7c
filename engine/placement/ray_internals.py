"""Everything of Ray that is used here and is not a part of its public interface.

Each has a test that fails when Ray changes it (`tests/engine/placement/test_ray_internals.py`).
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import ray
import ray._private.services
import ray.data
import ray.job_config
import ray.train
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

FEW_WORKERS_AT_START = {"prestart_worker_first_driver": False}
"""`_system_config` of a cluster on this machine. Ray would start an idle worker for each logical
CPU, and a laptop has fewer real ones.
"""

GROUP_LABEL = "ray.io/node-group"
"""Label that an autoscaler gives each node: the name of its group in the cluster's file."""

_MONITORS = ("autoscaler/v2/monitor.py", "autoscaler/_private/monitor.py")
_HEAD = "node:__internal_head__"
_LOUD_LOGGERS = (
    "ray.data.exceptions",
    "ray.data._internal.execution.streaming_executor_state",
)
_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


def search_only_the_drivers_path(job_config: ray.job_config.JobConfig) -> None:
    """Keep Ray from putting the driver's current folder first on the path of every worker.

    Ray adds no folder for jobs of Ray Client. Without a runtime environment of `init`'s own, the
    mark does nothing else.
    """
    job_config._client_job = True


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM over `ray.init`, which sets handlers of its own: they
    abort the process, and what it holds is not closed.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let `ray.init(_node_ip_address="127.0.0.1")` mean that: a cluster that starts meanwhile
    listens on this machine's own address alone. Ray puts the machine's address in the network in
    its place, also for a cluster of one machine, and then listens to all of the network.
    """
    usual = ray._private.services.resolve_ip_for_localhost
    ray._private.services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        ray._private.services.resolve_ip_for_localhost = usual


def silence_raised_errors() -> None:
    """Keep Ray Data from printing what it raises too, with a request to report it to Ray."""
    for name in _LOUD_LOGGERS:
        logging.getLogger(name).disabled = True


def resolved_options(config: ray.train.DataConfig, dataset: str) -> ray.data.ExecutionOptions:
    """The execution options that a `DataConfig` has for one of a trainer's data sets."""
    return config._resolve_execution_options(dataset)


def torch_backend() -> type:
    """Ray Train's set-up of torch's process group, to be derived from. Imports torch."""
    from ray.train.torch.config import _TorchBackend

    return _TorchBackend


def scaling_policy() -> type:
    """What decides how many workers a Ray Train group has, to be derived from."""
    from ray.train.v2._internal.execution.scaling_policy import ScalingPolicy

    return ScalingPolicy


def no_change() -> Any:
    """A scaling policy's answer: ask again."""
    from ray.train.v2._internal.execution.scaling_policy import NoopDecision

    return NoopDecision()


def resize(workers: int, config: ray.train.ScalingConfig) -> Any:
    """A scaling policy's answer: end the worker group, if there is one, and start one with
    `workers`.
    """
    from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

    return ResizeDecision(workers, config._resources_per_worker_not_none)


def follow(trainer: Any, policy: object) -> None:
    """Let the controller of a Ray Train trainer follow this scaling policy, not Ray's own."""
    run = trainer._initialize_and_run_controller

    def run_with_policy(**settings: object) -> object:
        return run(**{**settings, "scaling_policy": policy})

    trainer._initialize_and_run_controller = run_with_policy


def free_resources() -> dict[str, dict[str, float]]:
    """Ray's resources that nobody holds, for each live node by its id."""
    return ray._private.state.available_resources_per_node()


def autoscaler_config(timeout: float = 60.0) -> dict | None:
    """The cluster file that the connected cluster's autoscaler works with: `available_node_types`,
    `head_node_type` and `max_workers` as in Ray's cluster files. None where no autoscaler runs.

    A task without CPUs asks on the head. Takes about a second, at most `timeout` seconds; raises
    `ray.exceptions.GetTimeoutError` after that.
    """
    head = next(
        (node for node in ray.nodes() if node["Alive"] and _HEAD in node["Resources"]), None
    )
    if head is None:
        return None
    on_the_head = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    task = ray.remote(_find_config).options(num_cpus=0, scheduling_strategy=on_the_head)
    return ray.get(task.remote(), timeout=timeout)


def _find_config() -> dict | None:
    """Runs on the head. The autoscaler's process names its file; KubeRay's runs in a container of
    its own and reads the RayCluster.
    """
    import yaml

    address = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    for file in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(file, encoding="utf-8", errors="replace") as opened:
                words = opened.read().split("\0")
        except OSError:  # the process has ended
            continue
        if address not in words or not any(word.endswith(_MONITORS) for word in words):
            continue
        for word in words:
            name, _, path = word.partition("=")
            if name == "--autoscaling-config" and path:
                with open(os.path.expanduser(path), encoding="utf-8") as opened:
                    return yaml.safe_load(opened)
    if os.environ.get("RAY_CLUSTER_NAME") and os.path.exists(_NAMESPACE_FILE):
        from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

        with open(_NAMESPACE_FILE, encoding="utf-8") as opened:
            return AutoscalingConfigProducer(os.environ["RAY_CLUSTER_NAME"], opened.read())()
    return None
