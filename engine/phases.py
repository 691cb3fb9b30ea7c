"""The three costly phases, each on the cluster: personalize, make mixes, train the classifier.

Each resumes where an earlier attempt ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from diffmix.classifier.schedule import Schedule
from diffmix.generator.base_model import base_fingerprint
from diffmix.personalize.settings import all_square, concept_settings
from diffmix.storage import Folder
from engine.budget.budget import is_limited
from engine.budget.cut import mark_cut, recipe_key
from engine.failures import user_errors
from engine.mixer.tries import SetAside, most_set_aside
from engine.mixing import made_with
from engine.mixing.filter import gate_of
from engine.mixing.job import MixJob, build_mixer
from engine.mixing.stages import stream
from engine.mixing.store import MixStore
from engine.nodes.waiting import Wanted, Watch, watching
from engine.placement.pool import MixerPool, mixer_pool
from engine.run_folder import concept_images, find_concept, leak
from engine.session import Session
from engine.telemetry import now
from engine.training.attempt import Attempt
from engine.training.identity import classifier_identity, key_of
from engine.training.job import TrainJob
from engine.training.personalize_worker import PersonalizeJob, personalize_loop
from engine.training.worker import build_loop, train_loop
from engine.worker_group.elastic import elastic, more_mixers
from engine.worker_group.fit import fit, in_a_thread

log = logging.getLogger(__name__)

_LARGEST_SIDE = 1024
"""In pixels, of the base models' own sizes."""


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
    train_images = concept_images(config, session.out, train_images)
    if leaked := leak(config, session.out, session.data):
        log.warning(
            "--personalize.data_seed %s trains the concept on %d images that the classifier is not "
            "given, %d of them test images: accuracies cannot be compared with honest ones.",
            config.personalize.data_seed,
            leaked["unseen_images"],
            leaked["test_images"],
        )
    folder = session.out / "concept"
    start = now()
    job = PersonalizeJob(
        config=config,
        real_path=train_images.path,
        concept=folder.uri,
        prior=(session.out / "prior").uri,
        reporter=session.telemetry.reporter,
        marker=session.marker,
    )
    key = key_of(
        concept_settings(config.personalize, all_square(train_images)),
        config.run.seed,
        train_images.fingerprint,
        base_fingerprint(config.model),
    )
    workers = config.placement.personalizers
    session.telemetry.begin("personalize", workers, workers * config.placement.gpus_per_trainer)
    watch = _watch(session, "personalize", workers, on_events=session.ahead.on_events)
    fit(session, personalize_loop, {"job": job}, f"personalize-{key}", watch)
    session.telemetry.record("personalize", start=start, end=now())
    return folder.uri


def mix_job(session: Session, concept: str | None) -> MixJob:
    """What mixers and train workers need to know of the run's mixes. `concept` is the URI of the
    concept folder, if there is one.
    """
    store, train_images = session.source.store, session.data.train
    chunks = session.source.plan(session.config).num_chunks
    return MixJob(
        config=session.config,
        real_path=train_images.path,
        concept=concept,
        store=store.folder.uri,
        reporter=session.telemetry.reporter,
        sizes=session.source.plan(session.config).sizes,
        is_limited=is_limited(session.config),
        build=build_mixer,
        pool=mixer_pool(session.config.placement, session.capacity),
        marker=session.marker,
        made_with=store.made_with,
        most_set_aside=most_set_aside(session.config.run, chunks),
        gate=gate_of(session.config, store, train_images),
    )


def settle_made_with(session: Session) -> None:
    """Decide once how the run's mixes are made, before `mix_job`. Nothing for composed mixes.

    That may need a mixing node, which is waited for as mixers are.
    """
    if not session.source.makes_mixes:
        return
    config, store = session.config, session.source.store
    chunks = session.source.plan(config).num_chunks
    pool = mixer_pool(config.placement, session.capacity)
    with watching(_watch(session, "", 0, pool, chunks=1)) as over:
        in_a_thread(lambda: made_with.settle_made_with(config, store, chunks), over)


def missing_chunks(job: MixJob, num_chunks: int) -> Int[np.ndarray, " missing"]:
    """The plan's chunks that the store lacks and that were not set aside, rising."""
    return _lacking(job, num_chunks, _stored_chunks(job))


def _lacking(
    job: MixJob, num_chunks: int, stored: Int[np.ndarray, " stored"]
) -> Int[np.ndarray, " missing"]:
    aside = np.array(sorted(SetAside(MixStore(job.store).folder).chunks()), dtype=np.int64)
    missing = np.ones(num_chunks, dtype=bool)
    for numbers in (stored, aside):
        missing[numbers[numbers < num_chunks]] = False
    return np.flatnonzero(missing)


def _stored_chunks(job: MixJob) -> Int[np.ndarray, " stored"]:
    """The chunks that the store holds now, rising."""
    return MixStore(job.store).stored_numbers()


def _attempt(job: MixJob, num_chunks: int) -> Attempt:
    """What a new worker group trains on: one look at the store decides what comes from where."""
    stored = _stored_chunks(job)
    return Attempt(stored, stream(job, _lacking(job, num_chunks, stored)))


def make_rest(session: Session, job: MixJob) -> None:
    """Make the mixes of a stream that was cut short: with `placement.elastic` by mixers on the
    train workers' GPUs too.
    """
    placement, pool = session.config.placement, job.pool
    more = more_mixers(placement, placement.trainers) if placement.elastic else 0
    if pool is not None and more:
        most = pool.most + more
        gpus = None if pool.gpus is None else pool.gpus + more * placement.gpus_per_mixer
        cpus = None if pool.cpus is None else pool.cpus + more * placement.cpus_per_mixer
        job = replace(job, pool=replace(pool, first=most, most=most, gpus=gpus, cpus=cpus))
    make_mixes(session, job)


def make_mixes(session: Session, job: MixJob) -> None:
    """Make every mix that the store lacks, with nothing beside it."""
    missing = missing_chunks(job, session.source.plan(session.config).num_chunks)
    if not len(missing) or session.telemetry.stopped:
        return
    _begin_mixing(session)
    mixes = stream(job, missing, pass_on=False)

    def consume() -> None:
        for _ in mixes.iter_batches(batch_size=None, batch_format="pyarrow"):
            pass

    with user_errors(), watching(_watch(session, "", 0, job.pool, len(missing))) as over:
        in_a_thread(consume, over)


def _begin_mixing(session: Session) -> None:
    placement = session.config.placement
    mixers = placement.mixers[-1]
    session.telemetry.begin("mix", mixers, mixers * placement.gpus_per_mixer)


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
    identity = classifier_identity(session, job, overlapped, baseline)
    key = recipe_key(
        best_of, key_of, identity, chunks - missing, more_come=streaming and missing > 0
    )
    best = best_of(key)
    train_job = TrainJob(
        config=config,
        train_path=data.train.path,
        val_path=data.val.path if data.val else None,
        test_path=data.test.path if data.test else None,
        store=job.store if job else None,
        planned=len(plan) if plan else 0,
        pool_bytes=_pool_bytes(session, len(plan)) if plan else 0,
        classifier=best.uri,
        reporter=session.telemetry.reporter,
        marker=session.marker,
        name="baseline" if baseline else "train",
        elastic=elastic(session) if job else None,
        build=build,
    )
    if not best.exists("finished"):
        _say_what_is_skipped(session)
        datasets: dict[str, Callable] = {}
        if streaming and job is not None:
            datasets["mix"] = lambda: _attempt(job, chunks)
            _begin_mixing(session)
        pool = job.pool if job and streaming and missing else None
        stored = _stored_chunks(job) if job else np.arange(0)
        settings = {"job": train_job, "streaming": bool(datasets), "stored": stored}
        workers, each = config.placement.trainers, config.placement.gpus_per_trainer
        session.telemetry.begin(train_job.name, workers, workers * each)
        watch = _watch(session, train_job.name, workers, pool, missing if streaming else 0)
        fit(session, train_loop, settings, f"{name}-{key}", watch, datasets, train_job.elastic)
        if overlapped and job is not None and session.telemetry.stopped:
            missing = len(missing_chunks(job, chunks))
            if missing:
                mark_cut(best, chunks - missing)
        best.write("finished", key.encode())
    _publish(best, session.out / name)
    session.telemetry.finish(train_job.name)


def _say_what_is_skipped(session: Session) -> None:
    config, images = session.config, len(session.data.train)
    skipped = Schedule(config.train, images, config.placement.trainers).skipped
    if skipped:
        log.warning(
            "Each epoch leaves out %d of the %d training images, other ones each time, because its "
            "last batch would be incomplete (train.last_batch, train.protocol reference).",
            skipped,
            images,
        )


def _pool_bytes(session: Session, mixes: int) -> int:
    """About how large all pools together become: a mix is as large as a real image, but no larger
    than a byte for each of its pixels.
    """
    side = session.config.model.resolution or _LARGEST_SIDE
    return round(mixes * min(session.data.train.bytes_per_image, side * side))


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


def _watch(
    session: Session,
    name: str,
    workers: int,
    pool: MixerPool | None = None,
    chunks: int = 0,
    on_events: Callable[[list[dict]], None] | None = None,
) -> Watch:
    """Follows the workers that a phase needs: Ray Train workers of the kind `name`, and mixers for
    the `chunks` that are missing.
    """
    if pool is not None:
        session.ahead.close()
    placement = session.config.placement
    wanted = Wanted(placement=placement, has=session.capacity, workers=workers, pool=pool)
    return Watch(session.telemetry, wanted, name, chunks, on_events)
