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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ray
import ray._private.services
import ray._private.state
import ray.data
import ray.job_config
import ray.train
from ray.core.generated import gcs_pb2
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces.physical_operator import DataOpTask, MetadataOpTask
from ray.data._internal.execution.operators.actor_pool_map_operator import (
    ActorPoolMapOperator as _PoolOperator,
)
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
_POOL_LOGGER = "ray.data._internal.execution.operators.actor_pool_map_operator"
_RESTARTING = gcs_pb2.ActorTableData.ActorState.RESTARTING
_DEAD = gcs_pb2.ActorTableData.ActorState.DEAD
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


class StreamCallback(ExecutionCallback):
    """Called on the thread that runs a stream of Ray Data, wherever that is. Ray makes one for each
    stream, of the classes in `DataContext.custom_execution_callback_classes`.
    """

    def before_execution_starts(self, executor: Any) -> None:
        logging.getLogger(_POOL_LOGGER).addFilter(_is_no_false_alarm)
        self.start([ActorPool(op) for op in executor._topology if isinstance(op, _PoolOperator)])

    def on_execution_step(self, executor: Any) -> None:
        self.step()

    def start(self, pools: list[ActorPool]) -> None:
        """The stream starts. `pools` are its stages that run on actors."""

    def step(self) -> None:
        """Called several times a second while it runs."""


class PoolActor(NamedTuple):
    """One actor of a pool that has started."""

    name: str
    """Its id."""
    handle: Any
    node: str
    """Where it runs, or ran."""
    is_gone: bool
    """Whether it is dead, or waits for Ray to start it again."""


class ActorPool:
    """The actors of one stage of a running stream. For the thread that runs the stream alone."""

    def __init__(self, operator: Any):
        self._operator, self._pool = operator, operator._actor_pool
        self._leaving: dict[int, tuple[Any, Callable[[], None]]] = {}
        """Task that a living actor still has -> the actor, and what hands the task on."""
        # Ray ends idle actors as soon as no task waits. The last tasks of an actor that dies are
        # for them.
        remove = self._pool._try_remove_idle_actor
        self._pool._try_remove_idle_actor = lambda: not self._is_busy() and remove()

    def _is_busy(self) -> bool:
        return self._pool.num_tasks_in_flight() > 0 or bool(self._leaving)

    @property
    def context(self) -> ray.data.DataContext:
        """The stream's settings."""
        return self._operator.data_context

    def actors(self) -> list[PoolActor]:
        found = []
        for actor, state in self._pool._running_actors.items():
            name = actor._actor_id.hex()
            found.append(PoolActor(name, actor, state.actor_location, _is_gone(actor)))
        return found

    def take_back(self, actor: PoolActor) -> int:
        """Take an actor out of the pool, which may then start another one, and hand its tasks to
        the others. Gives their number.

        A living actor's task is canceled first, and handed on when it has ended: the actor may
        finish what it has begun. A task that has given a part of its output stays where it is, and
        so does its actor then, until the task is done.
        """
        operator, stays, taken = self._operator, False, []
        for number, task in list(operator._data_tasks.items()):
            if not isinstance(task, DataOpTask):
                continue  # taken back already
            if task.get_task_id().actor_id().hex() != actor.name:
                continue
            running = operator.metrics._running_tasks[number]
            if running.num_outputs or task.has_pending_emits() or task.is_drained():
                stays = True
                continue
            outputs = task.get_waitable()
            ray.cancel(outputs, recursive=False)
            # What Ray does when a task fails, short of raising its error.
            task._task_done_callback(RuntimeError("It was handed to another actor."), None, None)
            taken.append((number, outputs, running.inputs))
        if not stays:
            self._pool._release_running_actor(actor.handle)
        for number, outputs, inputs in taken:
            if actor.is_gone:
                operator._try_schedule_task(inputs, strict=False)
            else:
                self._hand_on_later(actor.handle, number, outputs, inputs)
        return len(taken)

    def submit_waiting(self) -> None:
        """Give tasks that were handed on to actors that have room. Ray does so with new ones."""
        for handle, hand_on in list(self._leaving.values()):
            if _is_gone(handle):
                hand_on()
        if self._operator._bundle_queue.has_next():
            self._operator._try_schedule_tasks_internal()

    def _hand_on_later(self, handle: Any, number: int, outputs: Any, inputs: Any) -> None:
        """Hand a task's inputs on when it has ended, or its actor is gone. Until then the stage
        counts it as its own.
        """
        operator = self._operator

        def hand_on(outputs: Any = outputs) -> None:  # without a reference Ray drops the task
            del operator._data_tasks[number], self._leaving[number]
            operator._try_schedule_task(inputs, strict=False)

        self._leaving[number] = (handle, hand_on)
        # Its end is waited for, whatever it is, and its outputs are not looked at.
        operator._data_tasks[number] = MetadataOpTask(number, outputs.completed(), hand_on)


def _is_gone(actor: Any) -> bool:
    return actor._get_local_state() in (_RESTARTING, _DEAD)


def _is_no_false_alarm(record: logging.LogRecord) -> bool:
    """Ray expects no tasks to be handed on, and warns of those that wait at a stream's end."""
    return "to remain in the input queue" not in str(record.msg)


def draining_nodes() -> dict[str, float | None]:
    """The nodes of the connected cluster that are going away -> when, in seconds since 1970; None:
    at some time.
    """
    nodes = ray._private.state.state.get_draining_nodes()
    return {node: moment / 1000 or None for node, moment in nodes.items()}
