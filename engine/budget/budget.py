"""Stopping to make mixes in time, so that training ends within `limits`."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict

import ray

from diffmix.config import Config
from diffmix.errors import reason
from diffmix.options.markers import numbers
from engine.budget.spending import EVENT, Meter, Sight, Spent, look, spent_before
from engine.placement.cluster import LABEL, MIX_LABEL
from engine.session import Session
from engine.telemetry import now

log = logging.getLogger(__name__)

_LIMITS = ("hours", "gpu_hours", "usd")
_SETTINGS = (*_LIMITS, "for_training")  # on which it depends when mixing stops
_LOOK_SECONDS = 5.0
_KEEP_SECONDS = 30.0


def is_limited(config: Config) -> bool:
    """Whether any limit is set."""
    limits = config.limits
    return any(getattr(limits, name) is not None for name in _LIMITS)


def is_measured(config: Config) -> bool:
    """Whether what the run costs is followed: it has a limit, or nodes have prices."""
    return is_limited(config) or bool(config.limits.prices)


@contextlib.contextmanager
def keeping_limits(session: Session) -> Iterator[None]:
    """Follow what the run costs while the block runs, and stop its mixing in time. Nothing without
    limits and prices.
    """
    if not is_measured(session.config):
        yield
        return
    budget, over = Budget(session), threading.Event()
    budget.see(look(now()))

    def follow() -> None:
        while not over.wait(_LOOK_SECONDS):
            try:
                budget.see(look(now()))
            except ray.exceptions.RayError as error:  # the next look tries again
                log.warning("The cluster could not be looked at: %s", reason(error))

    thread = threading.Thread(target=follow, daemon=True, name="budget")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(Exception):  # the cluster may be what broke
            budget.see(look(now()))
        budget.keep()


class Budget:
    """Compares what is spent with the limits. Owned by `keeping_limits`, called by one thread at a
    time.
    """

    def __init__(self, session: Session):
        self._config, self._telemetry = session.config, session.telemetry
        self._attempt = len(session.telemetry.events)
        self.meter = Meter(numbers(session.config.limits.prices), spent_before(self._events()))
        self._kept = 0.0
        self._passed = False
        self._limits = {name: getattr(session.config.limits, name) for name in _SETTINGS}
        self._before = self._stopped_before()

    def see(self, sight: Sight) -> None:
        """Take a look at the cluster into account; stops the mixing where it has to."""
        self.meter.add(sight)
        if sight.time - self._kept >= _KEEP_SECONDS:
            self.keep(sight.time)
        name = self._before or self._over(self._left(sight))
        if name and self._telemetry.stopped is None:
            self._telemetry.record("limit", name=name, limits=self._limits)
            log.warning(
                "limits.%s is %g and %.3g are spent: no more mixes are made, so that training "
                "can end.",
                name,
                getattr(self._config.limits, name),
                getattr(self.meter.spent, name),
            )
        if name:
            # Again at each look: the collector may have started anew and forgotten it.
            self._telemetry.stop_mixing(name)
        if not self._passed and self._over(Spent()):
            self._passed = True
            log.warning("limits.%s is spent; training goes on to its end.", self._over(Spent()))

    def keep(self, moment: float | None = None) -> None:
        """Record what is spent, for `summary.json` and for a later attempt."""
        self._kept = now() if moment is None else moment
        self._telemetry.record(EVENT, **asdict(self.meter.spent))

    def _stopped_before(self) -> str | None:
        """The limit for which an earlier attempt stopped; None where limits have changed since. The
        same command again makes and trains nothing new.
        """
        for event in reversed(self._events()):
            if event["event"] == "limit":
                return event["name"] if event["limits"] == self._limits else None
        return None

    def _over(self, left: Spent | None) -> str | None:
        """The first limit that what is spent and what is `left` to spend reach. None for `left`:
        not known yet, so that `limits.for_training` is kept.
        """
        limits, spent = self._config.limits, self.meter.spent
        for name in _LIMITS:
            limit = getattr(limits, name)
            if limit is None:
                continue
            kept = limit * limits.for_training if left is None else getattr(left, name)
            if getattr(spent, name) + kept >= limit:
                return name
        return None

    def _left(self, sight: Sight) -> Spent | None:
        """What the rest of training will cost, once mixers are gone. None before an epoch has been
        timed.
        """
        config, events = self._config, self._events()
        epochs = [e for e in events if e["event"] == "train" and e.get("rank", 0) == 0]
        if not epochs:
            return None
        of_attempt = [e["epoch"] for e in events[self._attempt :] if e["event"] == "train"]
        left = config.train.epochs - 1 - max(of_attempt, default=-1)
        if config.train.baseline and not any(e["event"] == "baseline" for e in events):
            left += config.train.epochs
        recent = epochs[-10:]
        hours = left * sum(e["end"] - e["start"] for e in recent) / len(recent) / 3600
        placement = config.placement
        splits = [event for event in events if event["event"] == "split"]  # by placement.auto
        trainers = splits[-1]["trainers"] if splits else placement.trainers
        mixing = MIX_LABEL[LABEL] if placement.separate else None
        nodes = {label: count for label, count in sight.nodes.items() if label != mixing}
        return Spent(
            hours=hours,
            gpu_hours=hours * trainers * placement.gpus_per_trainer,
            usd=hours * self.meter.rate(nodes),
        )

    def _events(self) -> list[dict]:
        return self._telemetry.events
