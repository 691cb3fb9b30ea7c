"""The whole job: personalise, then make mixes while the classifier trains on them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import ray

from diffmix.config import Config
from engine import phases
from engine.session import Session, open_session
from engine.summary import write_summary

log = logging.getLogger(__name__)


def run(config: Config) -> dict:
    """Everything, going on where an earlier run of the same folder ended. Gives what `summary.json` then holds.

    Raises `UserError` for anything that the user can mend.
    """
    with open_session(config) as session:
        kept = phases.find_concept(session) if session.uses_concept else None
        if kept or not session.uses_concept:
            phases.bind_store(session, kept)  # a store of another plan is refused before hours are spent
        baseline = _start_baseline(session)
        concept = phases.personalize(session)
        store = phases.bind_store(session, concept)
        job = phases.mix_job(session, concept, store)
        if baseline is not None and not _room_beside(session):
            baseline()
        if config.run.mode == "staged":
            phases.synthesize(session, job)
            phases.train(session, job, streaming=False)
        else:
            phases.train(session, job, streaming=True)
            phases.synthesize(session, job)  # nothing, unless the stream was cut short
        if baseline is not None:
            baseline()
        return write_summary(session, store, concept)


def personalize(config: Config) -> str:
    """The concept's folder."""
    with open_session(config) as session:
        return phases.personalize(session) or ""


def synthesize(config: Config) -> dict:
    """All mixes, personalising first where that is not done. Gives the summary so far."""
    with open_session(config) as session:
        concept = phases.personalize(session)
        store = phases.bind_store(session, concept)
        phases.synthesize(session, phases.mix_job(session, concept, store))
        return write_summary(session, store, concept)


def train(config: Config) -> dict:
    """The classifier alone, on the mixes that the run folder holds (none: on real images alone)."""
    with open_session(config) as session:
        concept = phases.find_concept(session) if session.uses_concept else None
        if not (session.out / "mixes").exists("plan.json"):
            phases.train(session, None, streaming=False)
            return write_summary(session, None, None)
        store = phases.bind_store(session, concept)
        phases.train(session, phases.mix_job(session, concept, store), streaming=False)
        return write_summary(session, store, concept)


def _start_baseline(session: Session) -> Callable[[], None] | None:
    """Start training without mixes, beside personalisation where there is room; calling the result waits for it."""
    if not session.config.train.baseline:
        return None
    if not _room_beside(session):
        done = []

        def later() -> None:
            if not done:
                phases.train(session, None, streaming=False, baseline=True)
                done.append(True)

        return later
    errors: list[BaseException] = []

    def work() -> None:
        try:
            phases.train(session, None, streaming=False, baseline=True)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="baseline")
    thread.start()

    def wait() -> None:
        thread.join()
        if errors:
            raise errors[0]

    return wait


def _room_beside(session: Session) -> bool:
    """Whether the cluster's GPUs hold personalisation and another worker group at once."""
    place = session.config.placement
    wanted = (place.personalizers + place.trainers) * place.gpus_per_trainer
    return ray.cluster_resources().get("GPU", 0.0) >= wanted
