"""The three costly phases, each on the cluster: personalize, synthesize, train. Each goes on where
an earlier attempt ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import ray.data
import ray.train
import ray.train.torch

from diffmix.config import to_dict
from diffmix.generator.base_model import base_fingerprint
from diffmix.generator.concept import concept_settings
from diffmix.plan import make_plan
from diffmix.storage import Folder, filesystem
from engine.failures import user_errors
from engine.mixing.filter import Decision, gate_of
from engine.mixing.mix_source import is_composed
from engine.mixing.stages import MixJob, build_mixer, execution_options, stream
from engine.mixing.store import MixStore
from engine.placement import cluster
from engine.run_folder import find_concept, uses_concept
from engine.session import Session
from engine.training.personalize_worker import PersonalizeJob, personalize_loop
from engine.training.worker import TrainJob, build_loop, train_loop

log = logging.getLogger(__name__)

_WITHOUT_EFFECT = ("baseline", "loader_workers")
"""Options of `train` that change nothing about a classifier: it is gone on with whatever they say."""


def personalize(session: Session) -> str | None:
    """The URI of the concept folder for this run: the given one, the run folder's own, or a newly
    trained one.

    None for strategies that use the base model alone. `UserError` where a concept is there but was
    made for other classes, another base model, other data or other settings.
    """
    config = session.config
    kept = find_concept(config, session.out, session.data.train)
    if kept is not None or not uses_concept(config):
        return kept
    folder = session.out / "concept"
    place = config.placement
    start = time.time()
    prior = session.out / "prior"
    job = PersonalizeJob(
        config, session.data.train.path, folder.uri, prior.uri, session.telemetry.reporter
    )
    key = _key(
        concept_settings(config.personalize),
        config.run.seed,
        session.data.train.fingerprint,
        base_fingerprint(config.model),
    )
    _fit(session, personalize_loop, {"job": job}, f"personalize-{key}", place.personalizers)
    session.telemetry.record("personalize", start=start, end=time.time())
    return folder.uri


def mix_job(session: Session, concept: str | None, store: MixStore) -> MixJob:
    gate = gate_of(session.config, store, session.data.train.superclass)
    return MixJob(
        session.config,
        session.data.train.path,
        concept,
        store.folder.uri,
        session.telemetry.reporter,
        build_mixer,
        gate,
    )


def remaining_chunks(job: MixJob, num_chunks: int) -> np.ndarray:
    """int64 numbers of the plan's chunks that the store lacks."""
    return np.array(
        sorted(set(range(num_chunks)) - MixStore(job.store).stored_chunks()), dtype=np.int64
    )


def synthesize(session: Session, job: MixJob) -> None:
    """Make every mix that the store lacks, with nothing beside it."""
    plan = make_plan(session.config, session.data.train)
    missing = remaining_chunks(job, plan.num_chunks)
    if len(missing):
        with user_errors():
            for _ in stream(job, missing, pass_on=False).iter_batches(
                batch_size=None, batch_format="pyarrow"
            ):
                pass


def train(
    session: Session,
    job: MixJob | None,
    streaming: bool,
    baseline: bool = False,
    build: Callable = build_loop,
) -> None:
    """Train the classifier and test it; with `streaming`, on mixes that are being made meanwhile.

    `job` None trains on real images alone. `build` is `TrainJob.build`. The result is in the run
    folder's `classifier/` (or `baseline/`).
    """
    config, data = session.config, session.data
    plan = make_plan(config, data.train)
    name = "baseline" if baseline else "classifier"
    identity: dict[str, object] = {
        "train": {
            option: value
            for option, value in to_dict(config.train).items()
            if option not in _WITHOUT_EFFECT
        },
        "data": data.train.fingerprint,
        "seed": config.run.seed,
        "mixes": baseline or _mix_identity(session, job),
    }
    if job is not None and not streaming and not is_composed(store := MixStore(job.store)):
        stored = len(store.stored_chunks())
        if (
            stored < plan.num_chunks
        ):  # what a stopped `synthesize` left is not what the whole plan will be
            identity["stored"] = stored
    key = _key(identity)
    # Each recipe keeps its best weights in a folder of its own: another recipe's run in between
    # must not be taken for this one's.
    best = session.out / "checkpoints" / f"{name}-{key}-best"
    train_job = TrainJob(
        config,
        data.train.path,
        data.val.path if data.val else None,
        data.test.path if data.test else None,
        job.store if job else None,
        len(plan) if job else 0,
        best.uri,
        session.telemetry.reporter,
        "baseline" if baseline else "train",
        build,
    )
    if not best.exists("finished"):
        datasets: dict[str, Callable] = {}
        if streaming and job is not None:
            num_chunks = plan.num_chunks
            datasets["mix"] = lambda: stream(job, remaining_chunks(job, num_chunks))
        settings = {"job": train_job, "streaming": bool(datasets)}
        _fit(session, train_loop, settings, f"{name}-{key}", config.placement.trainers, datasets)
        best.write("finished", key.encode())
    _publish(best, session.out / name)


def _publish(best: Folder, folder: Folder) -> None:
    """Make a recipe's finished classifier the run folder's; nothing where it is that already."""
    key = best.read("finished")
    if folder.exists("finished") and folder.read("finished") == key:
        return
    folder.create().write("finished", b"")  # in between the files are of two classifiers
    for name in best.names():
        if name != "finished" and not name.startswith("."):  # a killed writer's temporary file
            folder.write(name, best.read(name))
    folder.write("finished", key)


def _mix_identity(session: Session, job: MixJob | None) -> object:
    if job is None:
        return None
    mix, store = session.config.mix, MixStore(job.store)
    decision = Decision.of(store)
    filtered = [decision.gate.scorer, decision.gate.cut] if decision else []
    return [mix.gamma, mix.soft_scale, mix.synthetic_p, store.identity, *filtered]


def _fit(
    session: Session,
    loop: Callable,
    settings: dict,
    name: str,
    workers: int,
    datasets: dict | None = None,
) -> None:
    """Run a loop on Ray Train workers; the same name goes on from that name's last checkpoint."""
    place = session.config.placement
    checkpoints = session.out / "checkpoints"
    # Ray's own reader of URIs refuses spaces and umlauts, so it gets the bucket and the path in it.
    remote = None if checkpoints.is_local else filesystem(checkpoints.uri)[0]
    trainer = ray.train.torch.TorchTrainer(
        loop,
        train_loop_config=settings,
        # Logical GPUs are no devices: without an accelerator the workers talk through gloo.
        torch_config=ray.train.torch.TorchConfig(
            backend=None if cluster.has_accelerators() else "gloo"
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=place.gpus_per_trainer > 0,
            resources_per_worker={"CPU": place.cpus_per_trainer, "GPU": place.gpus_per_trainer},
            label_selector=cluster.TRAIN_LABEL if place.separate else None,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=checkpoints.path,
            storage_filesystem=remote,
            failure_config=ray.train.FailureConfig(max_failures=place.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
        datasets=datasets,
        dataset_config=_AsTheyCome(execution_options=execution_options(place)),
    )
    with user_errors():
        _in_a_thread(trainer.fit)


def _in_a_thread(work: Callable[[], object]) -> None:
    """Run Ray Train where it cannot take over Ctrl-C.

    In the main thread it puts in a handler that ends the process without a word, and that stays
    when training has ended: it holds the controller, and by that the GPUs of a stream that broke
    off.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="ray-train").start()
    done.result()


class _AsTheyCome(ray.train.DataConfig):
    """Each block goes at once to the worker that has had the fewest rows.

    Ray's own way shares rows out equally and, with locality, by node: it holds back as many rows as
    could still make up for the last block, and drops what cannot be shared equally. Here each
    worker's pool may differ in size.
    """

    def configure(
        self, datasets: dict, world_size: int, *_: object, **__: object
    ) -> list[dict[str, ray.data.DataIterator]]:
        shards: list[dict[str, ray.data.DataIterator]] = [{} for _ in range(world_size)]
        for name, data in datasets.items():
            data = data.copy(data)
            data.context.execution_options = self._resolve_execution_options(name)
            for shard, part in zip(
                shards, data.streaming_split(world_size, equal=False), strict=True
            ):
                shard[name] = part
        return shards


def _key(*identity: object) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
