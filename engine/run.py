"""The whole job: personalize, then make mixes while the classifier trains on them."""

from __future__ import annotations

import logging
import threading

import ray

from diffmix.config import Config
from engine import phases
from engine.mixing.filter import check_streaming, finish_filter, settle
from engine.mixing.mix_source import find_composed
from engine.mixing.store import MixStore
from engine.placement.calibrate import with_best_split
from engine.results.summary import write_summary
from engine.run_folder import bind_store, find_concept
from engine.session import Session, open_session

log = logging.getLogger(__name__)


def run(config: Config, command: float | None = None) -> dict:
    """Everything, going on where an earlier run of the same folder ended. Gives what `summary.json`
    then holds.

    On mixes that `diffmix compose` has put there, this trains and no more. `command` is when the
    command was given, in seconds since 1970; None: now. Raises `UserError` for anything that the
    user can mend.
    """
    check_streaming(config)
    with open_session(config, command, personalizes=True, mixes=True, trains=True) as session:
        baseline = _Baseline(session)
        concept = None
        store = find_composed(session.out, session.data.train)
        composed = store is not None
        if store is not None:
            finish_filter(config, store)
        else:
            concept = phases.personalize(session)
            store = _bound_store(session, concept)
        job = phases.mix_job(session, concept, store)
        baseline.wait_if_started()
        if config.placement.auto and not composed:
            session = with_best_split(session, job)
            job = phases.mix_job(session, concept, store)
        if composed:
            phases.train(session, job, streaming=False)
        elif config.run.mode == "staged":
            phases.synthesize(session, job)
            settle(config, store, session.data.train.superclass)
            phases.train(session, job, streaming=False)
        else:
            phases.train(session, job, streaming=True)
            phases.synthesize(session, job)  # nothing, unless the stream was cut short
        baseline.finish()
        return write_summary(session, store, concept)


def personalize(config: Config) -> str:
    """The concept's folder."""
    with open_session(config, personalizes=True) as session:
        return phases.personalize(session) or ""


def synthesize(config: Config) -> dict:
    """All mixes, personalizing first where that is not done. Gives the summary so far."""
    with open_session(config, personalizes=True, mixes=True) as session:
        composed = find_composed(session.out, session.data.train)
        if composed:  # it is whole
            return write_summary(session, composed, None)
        concept = phases.personalize(session)
        store = _bound_store(session, concept)
        phases.synthesize(session, phases.mix_job(session, concept, store))
        settle(config, store, session.data.train.superclass)
        return write_summary(session, store, concept)


def train(config: Config) -> dict:
    """The classifier alone, on the mixes that the run folder holds (none: on real images alone)."""
    with open_session(config, trains=True) as session:
        store, concept = find_composed(session.out, session.data.train), None
        if store is not None:
            finish_filter(config, store)
        else:
            concept = find_concept(config, session.out, session.data.train)
            if not MixStore((session.out / "mixes").uri).stored_chunks():
                phases.train(session, None, streaming=False)
                return write_summary(session, None, None)
            store = _bound_store(session, concept)
            settle(config, store, session.data.train.superclass)
        phases.train(session, phases.mix_job(session, concept, store), streaming=False)
        return write_summary(session, store, concept)


def _bound_store(session: Session, concept: str | None) -> MixStore:
    """The run's mix store, with a stopped filter finished."""
    store = bind_store(session.config, session.out, session.data.train, concept)
    finish_filter(session.config, store)
    return store


class _Baseline:
    """The same classifier without mixes: beside personalization where the cluster has room for
    both, else at the end.
    """

    def __init__(self, session: Session):
        self._session = session
        self._error: BaseException | None = None
        place = session.config.placement
        wanted = (place.personalizers + place.trainers) * place.gpus_per_trainer
        self._thread: threading.Thread | None = None
        if session.config.train.baseline and ray.cluster_resources().get("GPU", 0.0) >= wanted:
            self._thread = threading.Thread(target=self._train, daemon=True, name="baseline")
            self._thread.start()

    def _train(self) -> None:
        try:
            phases.train(self._session, None, streaming=False, baseline=True)
        except BaseException as error:
            self._error = error

    def wait_if_started(self) -> None:
        """Mixers and train workers may need the GPUs that it holds."""
        if self._thread is not None:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def finish(self) -> None:
        if self._session.config.train.baseline and self._thread is None:
            phases.train(self._session, None, streaming=False, baseline=True)
