"""What the run waits for, said where the user looks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import ray

from diffmix.config import PlacementConfig
from diffmix.errors import UserError
from engine.placement.capacity import Capacity, live
from engine.placement.cluster import LABEL, MIX_LABEL, TRAIN_LABEL
from engine.placement.pool import MixerPool
from engine.telemetry import Telemetry

_LOOK_SECONDS = 1.0
_PATIENCE = 3.0  # nothing is said of a wait that is shorter
_SLOW_START = 60.0  # after that, workers that start on nodes that are there are named too
_REPEAT = 60.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The workers that a phase needs before it can go on."""

    placement: PlacementConfig
    has: Capacity
    workers: int
    """Train or personalization workers."""
    pool: MixerPool | None = None
    """None where no mixers are needed, or none any more."""

    def text(self, workers: int, mixers: int, there: Capacity, slow: bool = False) -> str:
        """What is waited for, for people; empty where nothing is. `workers` and `mixers` are ready,
        on the nodes of `there`. `slow` also names workers whose nodes are there.
        """
        least = self.pool.least if self.pool else 0
        if workers >= self.workers and mixers >= least:
            return ""
        parts = []
        lacking = self._lacking_nodes(there) if workers < self.workers else ""
        if lacking:
            parts.append(lacking)
        elif slow and workers < self.workers:
            parts.append(f"train workers to start ({workers} of {self.workers})")
        if self.pool and mixers < least and (parts or slow or self._lacks_mixing_nodes(there)):
            parts.append(f"mixers {mixers} of {self.pool}")
        return f"waiting for {', '.join(parts)}" if parts else ""

    def _lacking_nodes(self, there: Capacity) -> str:
        """`2 train nodes (0 of 2)`; empty where the nodes have room for all workers."""
        place = self.placement
        gpus, cpus = place.gpus_per_trainer, place.cpus_per_trainer
        if not place.separate:
            needed, found = self._gpus(), there.total("GPU")
            return f"{needed:g} GPUs ({found:g} of {needed:g})" if found < needed else ""
        label = TRAIN_LABEL[LABEL]
        rooms = [node.fits(gpus, cpus) for node in there.labeled(label)]
        if sum(rooms) >= self.workers:
            return ""
        kinds = [node.fits(gpus, cpus) for node in self.has.labeled(label)]
        each = max([*kinds, *rooms, 1])
        needed = -(-self.workers // each)
        found = sum(room > 0 for room in rooms)
        return f"{needed} train {'node' if needed == 1 else 'nodes'} ({found} of {needed})"

    def _lacks_mixing_nodes(self, there: Capacity) -> bool:
        place = self.placement
        if not place.separate:
            return there.total("GPU") < self._gpus()
        rooms = [
            node.fits(place.gpus_per_mixer, place.cpus_per_mixer)
            for node in there.labeled(MIX_LABEL[LABEL])
        ]
        return self.pool is not None and sum(rooms) < self.pool.least

    def _gpus(self) -> float:
        mixers = self.pool.least if self.pool else 0
        place = self.placement
        return self.workers * place.gpus_per_trainer + mixers * place.gpus_per_mixer


class Watch:
    """Follows one phase's workers by their events. Used by one thread at a time."""

    def __init__(
        self,
        telemetry: Telemetry,
        wanted: Wanted,
        name: str,
        chunks: int = 0,
        on_events: Callable[[list[dict]], None] | None = None,
    ):
        """`name` is that of the workers' `worker_ready` events. `chunks` are still to be made;
        after them no mixer is waited for. `on_events` gets the new events of each look.
        """
        self._on_events = on_events
        self._telemetry, self._wanted, self._name = telemetry, wanted, name
        self._chunks = chunks
        self._seen = len(telemetry.events)
        self._workers: dict[int, str] = {}
        self._mixers: dict[str, str] = {}
        self._made: set[int] = set()
        self._began: float | None = None
        self._said, self._said_at = "", 0.0
        self._short_since = time.monotonic()

    @property
    def workers(self) -> int:
        """Train or personalization workers."""
        return self._wanted.workers

    @property
    def pool(self) -> MixerPool | None:
        """The mixers that work beside them."""
        return self._wanted.pool

    def look(self) -> None:
        """Take the new events, and record a `waiting` event where something new is to be said.
        Raises `UserError` where `placement.wait_minutes` are over.
        """
        events = self._telemetry.events
        new = events[self._seen :]
        self._seen += len(new)
        for event in new:
            self._note(event)
        if self._on_events is not None:
            self._on_events(new)
        there, alive = live(), {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        wanted = self._wanted
        if wanted.pool and len(self._made) >= self._chunks:
            wanted = Wanted(placement=wanted.placement, has=wanted.has, workers=wanted.workers)
        workers = sum(node in alive for node in self._workers.values())
        mixers = sum(node in alive for node in self._mixers.values())
        now = time.monotonic()
        if not wanted.text(workers, mixers, there, slow=True):
            self._short_since = now
        slow = now - self._short_since > _SLOW_START
        self._say(wanted.text(workers, mixers, there, slow), now)

    def _note(self, event: dict) -> None:
        kind = event["event"]
        if kind == "worker_ready" and event["name"] == self._name:
            self._workers[event["rank"]] = event["node"]
        elif kind == "mixer_ready":
            self._mixers[event["actor"]] = event["node"]
        elif kind == "resize" and event["phase"] == self._name:
            self._wanted = replace(self._wanted, workers=event["workers"])
            self._workers.clear()  # each of the new group says that it is ready
        elif kind == "mix":
            self._made.add(event["chunk"])

    def _say(self, text: str, now: float) -> None:
        if not text:
            self._began = None
            if self._said:
                self._telemetry.record("waiting", text="")
                self._said = ""
            return
        self._began = now if self._began is None else self._began
        waited, limit = now - self._began, self._wanted.placement.wait_minutes
        new = text != self._said and waited >= _PATIENCE
        if new or (self._said and now - self._said_at >= _REPEAT):
            self._telemetry.record("waiting", text=text, seconds=round(waited))
            self._said, self._said_at = text, now
        if limit is not None and waited > 60 * limit:
            raise UserError(
                f"The run was {text} for more than {limit:g} minutes (--placement.wait_minutes); "
                "the same command goes on from here when the nodes are there."
            )


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[threading.Event]:
    """Look every second, in a thread. The event that the block gets is set where the wait is over
    its limit; leaving the block then raises the `UserError`.
    """
    stop, over = threading.Event(), threading.Event()
    errors: list[UserError] = []

    def work() -> None:
        while not stop.wait(_LOOK_SECONDS):
            try:
                watch.look()
            except UserError as error:
                errors.append(error)
                over.set()
                return
            except ray.exceptions.RayError:  # the next second looks again
                continue

    thread = threading.Thread(target=work, daemon=True, name="waiting")
    thread.start()
    try:
        yield over
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
