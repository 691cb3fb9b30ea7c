"""Running a loop on Ray Train workers, and waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import ray.train
import ray.train.torch

from diffmix.storage import filesystem
from engine.failures import StopAtUserErrors, user_errors
from engine.mixing.stages import execution_options
from engine.nodes.waiting import Watch, watching
from engine.placement.cluster import TRAIN_LABEL
from engine.placement.ray_internals import follow
from engine.session import Session
from engine.training.attempt import AsTheyCome
from engine.worker_group.elastic import Elastic
from engine.worker_group.scaling import ElasticPolicy
from engine.worker_group.torch_backend import ByDevices

_LOOK_SECONDS = 0.2


def fit(
    session: Session,
    loop: Callable,
    settings: dict,
    name: str,
    watch: Watch,
    datasets: dict | None = None,
    elastic: Elastic | None = None,
) -> None:
    """Run a loop on Ray Train workers; the same name resumes from that name's last checkpoint.
    With `elastic` their number may change.

    Raises `UserError` for a worker's.
    """
    placement = session.config.placement
    checkpoints = session.out / "checkpoints"
    # Ray's own reader of URIs refuses spaces and umlauts, so it gets the bucket and the path in it.
    remote = None if checkpoints.is_local else filesystem(checkpoints.uri)[0]
    scaling = ray.train.ScalingConfig(
        num_workers=watch.workers,
        use_gpu=placement.gpus_per_trainer > 0,
        resources_per_worker={
            "CPU": placement.cpus_per_trainer,
            "GPU": placement.gpus_per_trainer,
        },
        label_selector=TRAIN_LABEL if placement.separate else None,
    )
    trainer = ray.train.torch.TorchTrainer(
        loop,
        train_loop_config=settings,
        torch_config=ByDevices(),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=checkpoints.path,
            storage_filesystem=remote,
            failure_config=ray.train.FailureConfig(max_failures=placement.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=[StopAtUserErrors()],
        ),
        datasets=datasets,
        dataset_config=AsTheyCome(execution_options=execution_options(placement, watch.pool)),
    )
    if elastic is not None:
        follow(trainer, ElasticPolicy(scaling, elastic))
    with user_errors(), watching(watch) as over:
        in_a_thread(trainer.fit, over)


def in_a_thread(work: Callable[[], object], over: threading.Event) -> None:
    """Run Ray's work in a thread until it is done, or until `over` is set.

    Ray Train must not take over Ctrl-C. In the main thread it installs a handler that ends the
    process without a word. The handler stays when training has ended: it holds the controller, and
    through it the GPUs of a stream that broke off.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="ray-train").start()
    while not over.is_set():
        try:
            return done.result(timeout=_LOOK_SECONDS)
        except TimeoutError:
            if done.done():  # the work's own error
                raise
