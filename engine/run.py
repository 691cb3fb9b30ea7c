"""The job, as a person would tell it.

Everything cheap is checked first. Then the generator is personalized to the user's classes, mixers
translate real images into other classes, and the classifier trains on real images and mixes:
overlapped (`run.mode`) while the mixers work, staged after they are done. Last come the test, the
summary and the report. A baseline without mixes trains beside it or at the end. On mixes that
`diffmix compose` has put into the run folder, the classifier trains at once.

Each function here is one command and one run folder. It resumes where an earlier attempt in that
folder ended, and raises `UserError` for user errors.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from diffmix.config import Config
from diffmix.plan import MixPlan
from engine import phases
from engine.budget.budget import keeping_limits
from engine.listeners import Hears
from engine.mixer.tries import SetAside
from engine.mixing.filter import check_streaming
from engine.mixing.part_check import repair
from engine.placement.calibrate import with_best_split
from engine.placement.cluster import LABEL, TRAIN_LABEL
from engine.results.summary import write_summary
from engine.run_folder import find_concept
from engine.session import Session, open_session


def run(config: Config, command: float | None = None, listeners: Sequence[Hears] = ()) -> dict:
    """The whole job. Gives what `summary.json` then holds, and `report`, the path of the report's
    images.

    `command` is the moment at which the command was given, in seconds since 1970; None: now.
    `listeners` hear the run's events beside those that `run.listeners` names; a function is called
    with each event.
    """
    check_streaming(config)
    with open_session(
        config, command, listeners, personalizes=True, mixes=True, trains=True
    ) as session:
        with keeping_limits(session):
            session = _whole_job(session)
        return write_summary(session, mixed=True)


def _whole_job(session: Session) -> Session:
    """All phases. Gives the session with the options that were settled on the way."""
    baseline = _Baseline(session)
    concept = phases.personalize(session)
    _open_source(session, concept)
    baseline.wait_if_started()
    phases.settle_made_with(session)
    job = phases.mix_job(session, concept)
    makes_mixes = session.source.makes_mixes
    if makes_mixes and session.config.placement.auto:
        session = with_best_split(session, job)
        job = phases.mix_job(session, concept)
    if makes_mixes and session.config.run.mode == "overlapped":
        phases.train_classifier(session, job, streaming=True)
        phases.make_rest(session, job)  # nothing, unless the stream was cut short
    else:
        phases.make_mixes(session, job)
        session.source.settle(session.config)
        phases.train_classifier(session, job)
    baseline.finish()
    return session


def run_personalization(config: Config, listeners: Sequence[Hears] = ()) -> str:
    """The concept alone. Gives its folder; empty where the strategy uses the plain base model."""
    with open_session(config, listeners=listeners, personalizes=True) as session:
        return phases.personalize(session) or ""


def run_mixing(config: Config, listeners: Sequence[Hears] = ()) -> dict:
    """All mixes, after personalization where that is not done. Gives the summary so far."""
    with open_session(config, listeners=listeners, personalizes=True, mixes=True) as session:
        with keeping_limits(session):
            concept = phases.personalize(session)
            _open_source(session, concept)
            phases.settle_made_with(session)
            phases.make_mixes(session, phases.mix_job(session, concept))
            session.source.settle(session.config)
        return write_summary(session, mixed=True)


def run_training(config: Config, listeners: Sequence[Hears] = ()) -> dict:
    """The classifier alone, on the mixes that the run folder holds; without any, on real images
    alone. Gives the summary.
    """
    with open_session(config, listeners=listeners, trains=True) as session:
        source = session.source
        mixed = bool(source.store.stored_chunks())
        job = None
        if mixed:
            concept = None
            if source.uses_concept(session.config):
                concept = find_concept(session.config, session.out, session.data.train)
            _open_source(session, concept)
            source.settle(session.config)
            job = phases.mix_job(session, concept)
        phases.train_classifier(session, job)
        return write_summary(session, mixed)


def _open_source(session: Session, concept: str | None) -> None:
    """Tie the mix store to this run, and with `run.repair` look through it first."""
    source, config = session.source, session.config
    source.open(config, concept)
    SetAside(source.store.folder).forget_tries()
    if config.run.repair:
        plan = source.plan(config)
        repair(source.store, plan if isinstance(plan, MixPlan) else None)


class _Baseline:
    """The same classifier without mixes: beside personalization where the cluster has room for
    both, else at the end.
    """

    def __init__(self, session: Session):
        self._session = session
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        placement = session.config.placement
        workers = placement.personalizers + placement.trainers
        label = TRAIN_LABEL[LABEL] if placement.separate else None
        room = session.capacity.total("GPU", label) >= workers * placement.gpus_per_trainer
        if session.config.train.baseline and room:
            self._thread = threading.Thread(target=self._train, daemon=True, name="baseline")
            self._thread.start()

    def _train(self) -> None:
        try:
            phases.train_classifier(self._session, None, baseline=True)
        except BaseException as error:
            self._error = error

    def wait_if_started(self) -> None:
        """Wait for the GPUs that the baseline holds: mixers and train workers may need them."""
        if self._thread is not None:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def finish(self) -> None:
        """Train the baseline now if it was not started before."""
        if self._session.config.train.baseline and self._thread is None:
            phases.train_classifier(self._session, None, baseline=True)
