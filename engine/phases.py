"""The three costly phases, each on the cluster: personalize, make mixes, train the classifier.

Each resumes where an earlier attempt ended.
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
from diffmix.storage import Folder, filesystem
from engine.budget.budget import is_limited
from engine.budget.cut import mark_cut, recipe_key
from engine.failures import user_errors
from engine.mixing.filter import Decision, gate_of
from engine.mixing.job import MixJob, build_mixer
from engine.mixing.stages import execution_options, stream
from engine.mixing.store import MixStore
from engine.placement import cluster
from engine.run_folder import find_concept
from engine.session import Session
from engine.training.job import TrainJob
from engine.training.personalize_worker import PersonalizeJob, personalize_loop
from engine.training.worker import build_loop, train_loop

log = logging.getLogger(__name__)

_WITHOUT_EFFECT = ("baseline", "loader_workers")
"""`train` options that do not affect the trained weights; changing them does not invalidate a
checkpoint.
"""


def personalize(session: Session) -> str | None:
    """The URI of this run's concept folder: the given one, the run folder's own, or a newly trained
    one. None for mixes that need no concept.

    `UserError` where there is a concept that was made for other classes, another base model, other
    data or other settings.
    """
    config, train_images = session.config, session.data.train
    if not session.source.uses_concept(config):
        return None
    kept = find_concept(config, session.out, train_images)
    if kept is not None:
        return kept
    folder = session.out / "concept"
    start = time.time()
    job = PersonalizeJob(
        config=config,
        real_path=train_images.path,
        concept=folder.uri,
        prior=(session.out / "prior").uri,
        reporter=session.telemetry.reporter,
    )
    key = _key(
        concept_settings(config.personalize),
        config.run.seed,
        train_images.fingerprint,
        base_fingerprint(config.model),
    )
    workers = config.placement.personalizers
    _fit(session, personalize_loop, {"job": job}, f"personalize-{key}", workers)
    session.telemetry.record("personalize", start=start, end=time.time())
    return folder.uri


def mix_job(session: Session, concept: str | None) -> MixJob:
    """What mixers and train workers need to know of the run's mixes. `concept` is the URI of the
    concept folder, if there is one.
    """
    store, train_images = session.source.store, session.data.train
    return MixJob(
        config=session.config,
        real_path=train_images.path,
        concept=concept,
        store=store.folder.uri,
        reporter=session.telemetry.reporter,
        sizes=session.source.plan(session.config).sizes,
        is_limited=is_limited(session.config),
        build=build_mixer,
        gate=gate_of(session.config, store, train_images),
    )


def missing_chunks(job: MixJob, num_chunks: int) -> np.ndarray:
    """int64 [n]: the plan's chunks that the store lacks, rising."""
    missing = np.ones(num_chunks, dtype=bool)
    stored = MixStore(job.store).stored_numbers()
    missing[stored[stored < num_chunks]] = False
    return np.flatnonzero(missing)


def make_mixes(session: Session, job: MixJob) -> None:
    """Make every mix that the store lacks, with nothing beside it."""
    missing = missing_chunks(job, session.source.plan(session.config).num_chunks)
    if not len(missing) or session.telemetry.stopped:
        return
    mixes = stream(job, missing, pass_on=False)
    with user_errors():
        for _ in mixes.iter_batches(batch_size=None, batch_format="pyarrow"):
            pass


def train_classifier(
    session: Session,
    job: MixJob | None,
    streaming: bool = False,
    baseline: bool = False,
    build: Callable = build_loop,
) -> None:
    """Train the classifier and test it. The result is in the run folder's `classifier/` (or
    `baseline/`).

    `job` None trains on real images alone. With `streaming`, the mixes that the store lacks are
    made meanwhile. `build` is `TrainJob.build`.
    """
    config, data = session.config, session.data
    plan = session.source.plan(config) if job else None
    overlapped = streaming
    name = "baseline" if baseline else "classifier"
    streaming = streaming and not session.telemetry.stopped

    # Each recipe keeps its best weights in a folder of its own: another recipe's run in between
    # must not be taken for this one's.
    def best_of(key: str) -> Folder:
        return session.out / "checkpoints" / f"{name}-{key}-best"

    chunks = plan.num_chunks if plan else 0
    missing = len(missing_chunks(job, chunks)) if overlapped and job else 0
    identity = _classifier_identity(session, job, overlapped, baseline)
    key = recipe_key(best_of, _key, identity, chunks - missing, more_come=streaming and missing > 0)
    best = best_of(key)
    train_job = TrainJob(
        config=config,
        train_path=data.train.path,
        val_path=data.val.path if data.val else None,
        test_path=data.test.path if data.test else None,
        store=job.store if job else None,
        planned=len(plan) if plan else 0,
        classifier=best.uri,
        reporter=session.telemetry.reporter,
        name="baseline" if baseline else "train",
        build=build,
    )
    if not best.exists("finished"):
        datasets: dict[str, Callable] = {}
        if streaming and job is not None:
            datasets["mix"] = lambda: stream(job, missing_chunks(job, chunks))
        settings = {"job": train_job, "streaming": bool(datasets)}
        _fit(session, train_loop, settings, f"{name}-{key}", config.placement.trainers, datasets)
        if overlapped and job is not None and session.telemetry.stopped:
            missing = len(missing_chunks(job, chunks))
            if missing:
                mark_cut(best, chunks - missing)
        best.write("finished", key.encode())
    _publish(best, session.out / name)


def _classifier_identity(
    session: Session, job: MixJob | None, streaming: bool, baseline: bool
) -> dict:
    """What the trained weights depend on, as JSON values."""
    config = session.config
    recipe = {}
    for option, value in to_dict(config.train).items():
        if option not in _WITHOUT_EFFECT:
            recipe[option] = value
    identity: dict[str, object] = {
        "train": recipe,
        "data": session.data.train.fingerprint,
        "seed": config.run.seed,
        "mixes": baseline or _mix_identity(session, job),
    }
    if job is not None and not streaming:
        stored = len(MixStore(job.store).stored_chunks())
        if stored < session.source.plan(config).num_chunks:
            # Weights trained on a part of the mixes are not those trained on all of them.
            identity["stored"] = stored
    return identity


def _mix_identity(session: Session, job: MixJob | None) -> object:
    if job is None:
        return None
    mix, store = session.config.mix, MixStore(job.store)
    decision = Decision.of(store)
    filtered = [decision.gate.scorer, decision.gate.cut] if decision else []
    return [mix.gamma, mix.soft_scale, mix.synthetic_p, store.identity, *filtered]


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


def _fit(
    session: Session,
    loop: Callable,
    settings: dict,
    name: str,
    workers: int,
    datasets: dict | None = None,
) -> None:
    """Run a loop on Ray Train workers; the same name resumes from that name's last checkpoint."""
    placement = session.config.placement
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
            use_gpu=placement.gpus_per_trainer > 0,
            resources_per_worker={
                "CPU": placement.cpus_per_trainer,
                "GPU": placement.gpus_per_trainer,
            },
            label_selector=cluster.TRAIN_LABEL if placement.separate else None,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=checkpoints.path,
            storage_filesystem=remote,
            failure_config=ray.train.FailureConfig(max_failures=placement.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
        datasets=datasets,
        dataset_config=_AsTheyCome(execution_options=execution_options(placement)),
    )
    with user_errors():
        _in_a_thread(trainer.fit)


def _in_a_thread(work: Callable[[], object]) -> None:
    """Run Ray Train where it cannot take over Ctrl-C.

    In the main thread it installs a handler that ends the process without a word. The handler stays
    when training has ended: it holds the controller, and through it the GPUs of a stream that broke
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
    """Hands each block at once to the worker that has had the fewest rows.

    Ray's own way gives workers equal shares and, with locality, prefers their nodes: it holds back
    as many rows as could still make up for the last block, and drops what cannot be shared equally.
    Here each worker's pool may differ in size.
    """

    def configure(
        self, datasets: dict, world_size: int, *_: object, **__: object
    ) -> list[dict[str, ray.data.DataIterator]]:
        shards: list[dict[str, ray.data.DataIterator]] = [{} for _ in range(world_size)]
        for name, data in datasets.items():
            data = data.copy(data)
            data.context.execution_options = self._resolve_execution_options(name)
            parts = data.streaming_split(world_size, equal=False)
            for shard, part in zip(shards, parts, strict=True):
                shard[name] = part
        return shards


def _key(*identity: object) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
