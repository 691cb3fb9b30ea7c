"""What happens when: workers and the driver record events, and listeners hear them."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from diffmix.errors import reason
from diffmix.format_version import KEY, with_version, without_version
from diffmix.storage import Folder
from engine.listeners import METRICS_FILE, Listener, MetricsFile, metrics_files

log = logging.getLogger(__name__)

NAMESPACE = "diffmix"
_ANSWER_SECONDS = 30.0
_SHORT = 64
_STARTED = time.time() - time.monotonic()


def now() -> float:
    """Seconds since 1970, for events. The machine's clock is read once in each process: where it is
    set back, work would otherwise end before it began.
    """
    return _STARTED + time.monotonic()


class _Collector:
    """The actor that workers send events to, on the driver's node until the driver ends it."""

    def __init__(self) -> None:
        self.events: list[dict] = []
        self._failed_starts: Counter[str] = Counter()
        self._lost = 0
        self._stopped = False

    def record(self, event: dict) -> None:
        self.events.append(event)
        if event["event"] == "mixer_failed":
            self._failed_starts[event["node"]] += 1
        self._lost += event["event"] == "mixer_lost"

    def lost_mixers(self) -> int:
        return self._lost

    def failed_starts(self) -> dict[str, int]:
        return dict(self._failed_starts)

    def drain(self) -> list[dict]:
        events, self.events = self.events, []
        return events

    def stop_mixing(self) -> None:
        self._stopped = True

    def is_stopped(self) -> bool:
        return self._stopped


class Reporter:
    """A worker's side: sends events without waiting. Picklable. A lost collector costs figures,
    never the run.
    """

    def __init__(self, name: str):
        self.name = name
        self._actor: Any = None

    def __reduce__(self) -> tuple:
        return (Reporter, (self.name,))

    def send(self, kind: str, **values: object) -> None:
        try:
            self._actor = self._actor or ray.get_actor(self.name, namespace=NAMESPACE)
            self._actor.record.remote({"event": kind, "time": now(), **values})
        except (ValueError, ray.exceptions.RayError):
            self._actor = None

    def record(self, kind: str, **values: object) -> None:
        """As `send`, but the collector has the event when this returns."""
        self._ask("record", {"event": kind, "time": now(), **values})

    def lost_mixers(self) -> int:
        """How many mixers have died."""
        return self._ask("lost_mixers") or 0

    def failed_starts(self) -> dict[str, int]:
        """Node ids -> how many mixers could not start there."""
        return self._ask("failed_starts") or {}

    def is_stopped(self) -> bool:
        """Whether no more mixes are to be made (`Telemetry.stop_mixing`)."""
        return bool(self._ask("is_stopped"))

    def _ask(self, method: str, *arguments: object) -> Any:
        """What the collector answers; None where it is lost."""
        try:
            actor = ray.get_actor(self.name, namespace=NAMESPACE)
            return ray.get(getattr(actor, method).remote(*arguments), timeout=_ANSWER_SECONDS)
        except (ValueError, ray.exceptions.RayError):
            return None


class Telemetry:
    """The driver's side: owns the collector, and hands every event to `metrics.jsonl` and to the
    listeners. Owned by the run's session, which closes it.

    `events` has all events of the run folder: first those of earlier attempts, read from
    `metrics.jsonl`, which listeners do not hear again.
    """

    def __init__(
        self,
        out: Folder,
        name: str,
        command: float | None = None,
        listeners: Sequence[Listener] = (),
    ):
        """`name` is the collector's, unique in the cluster. `command` is the moment at which the
        command was given, in seconds since 1970; None: now.
        """
        self.events = read_events(out)
        self.stopped: str | None = None
        """The limit for which mixing was stopped; None while it was not."""
        self.reporter = Reporter(name)
        node = ray.get_runtime_context().get_node_id()
        collector = ray.remote(_Collector).options(
            num_cpus=0,
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            max_restarts=-1,
            label_selector={"ray.io/node-id": node},
        )
        self._collector = collector.remote()
        self._listeners: list[Listener] = [MetricsFile(out), *listeners]
        self._heard = len(self.events)
        self._lock = threading.Lock()  # a thread collects while others record
        command = now() if command is None else command
        self.record("start", **with_version({"command": command}))

    def record(self, kind: str, **values: object) -> None:
        """Keep an event of the driver's own."""
        with self._lock:
            self.events.append({"event": kind, "time": now(), **values})

    def begin(self, phase: str, workers: int, gpus: float) -> None:
        """Say that a phase begins (`personalize`, `mix`, `train` or `baseline`), on at most so many
        workers and Ray's GPUs.
        """
        self.record("phase", phase=phase, state="begin", workers=workers, gpus=gpus)

    def finish(self, phase: str) -> None:
        """Say that a phase is over."""
        self.record("phase", phase=phase, state="end")

    def stop_mixing(self, limit: str) -> None:
        """Tell readers and mixers to make no further chunk, because of a limit of `limits`."""
        self.stopped = limit
        self._collector.stop_mixing.remote()

    def collect(self) -> None:
        """Fetch what workers have sent since the last call, and hand it to the listeners together
        with the driver's own events.
        """
        with self._lock:
            self.events += ray.get(self._collector.drain.remote())
            self._hand_over()

    def close(self) -> None:
        """Hand over the driver's last events, close the listeners and end the collector. What the
        collector still holds is lost.
        """
        with self._lock:
            self._hand_over()
            for listener in self._listeners:
                with _logged(listener):
                    listener.close()
        ray.kill(self._collector)

    def _hand_over(self) -> None:
        new, self._heard = self.events[self._heard :], len(self.events)
        for listener in self._listeners:
            with _logged(listener):
                listener.on_events(new)


@contextlib.contextmanager
def _logged(listener: Listener) -> Iterator[None]:
    """A listener's error costs what it would have kept, not the run: an object store or a tracker
    on the network has bad moments.
    """
    try:
        yield
    except Exception as error:
        log.warning("%s could not take events: %s", type(listener).__name__, reason(error))


def read_events(out: Folder) -> list[dict]:
    """The events of `metrics.jsonl` and its later parts; none where it is missing. A line that a
    killed writer cut off is left out.

    Raises `UserError` where a newer format version wrote the file.
    """
    events = []
    for name in metrics_files(out):
        for line in out.read(name).decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line, object_pairs_hook=_shared))
    for event in events:
        if KEY in event:  # each attempt's first event carries it
            without_version(event, f"{out.uri}/{METRICS_FILE}")
    return events


def _shared(pairs: list[tuple[str, Any]]) -> dict:
    """An event whose names and short texts are those of the other events: a run of a million chunks
    would take a gigabyte of them.
    """
    event = {}
    for name, value in pairs:
        short = isinstance(value, str) and len(value) <= _SHORT
        event[sys.intern(name)] = sys.intern(value) if short else value
    return event
