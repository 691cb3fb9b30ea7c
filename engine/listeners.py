"""Who hears what happens in a run: the file `metrics.jsonl`, the progress display, and any tracker
of metrics.

A tracker is one file with a class that has the two methods of `Listener`, and one line in
`LISTENERS`. `run.listeners` then names it. A listener that needs more than the run folder goes into
`engine.run.run(config, listeners=[...])` from Python.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.display import make_display
from engine.trackers.mlflow import MLflow
from engine.trackers.ray_metrics import RayMetrics
from engine.trackers.tensorboard import TensorBoard
from engine.trackers.trackio import Trackio
from engine.trackers.wandb import WandB

METRICS_FILE = "metrics.jsonl"
_REMOTE_SECONDS = 30.0  # an object store cannot append: a part is written whole each time
_PART_BYTES = 4 * 2**20  # so that is the most that one write sends
_LATER_PART = re.compile(r"metrics-\d{5}\.jsonl")


class Listener(Protocol):
    """Hears the events of a run. Owned by the run's session, which calls it from one thread at a
    time and closes it at the end.

    An event is a dict of JSON values: `event` is its kind, `time` the seconds since 1970 at which
    it was recorded. The kinds are

    - of the driver: `start` (an attempt), `plan` (`planned` and `stored` mixes, `epochs`), `phase`
      (`begin` and `end` of one), `gpus` (`used` and `all`; at least twice a minute), `waiting`
      (`text` is what for; empty: for nothing any more), `mixer_failed` (a try of a start),
      `personalize`, `calibration`, `split`, `spent`, `limit` (mixing stops for it), `result` (the
      test's accuracy), `end` (`outcome` is `done`, `failed` or `interrupted`);
    - of workers: `worker_ready` (a Ray Train worker), `personalize_step`, `mixer_ready`, `mix` (a
      chunk), `mix_failed` (a try of a chunk), `set_aside` (a chunk that was given up), `train` and
      `baseline` (an epoch of one train worker), `validation`;
    - of both: `note` (`text` is a sentence for the user).

    A tracker of losses in a CSV file:

        class CsvLosses:
            def __init__(self, path):
                self._file = open(path, "a", newline="")
                self._rows = csv.writer(self._file)

            def on_events(self, events):
                for event in events:
                    if event["event"] == "train":
                        self._rows.writerow([event["epoch"], event["rank"], event["loss"]])

            def close(self):
                self._file.close()

        run(config, listeners=[CsvLosses("losses.csv")])
    """

    def on_events(self, events: list[dict]) -> None:
        """Take the events since the last call, in the order in which they arrived.

        Called about once a second, also with an empty list. An exception is logged and ends
        neither the run nor the other listeners; the events of that call are not repeated.
        """
        ...

    def close(self) -> None:
        """Write what is not written yet. Called once, after the last events."""
        ...


LISTENERS: dict[str, Callable[[Config, Folder], Listener]] = {
    "progress": lambda config, out: make_display(config.run.display, out.uri),
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
    "trackio": Trackio,
    "ray": RayMetrics,
}
"""What `run.listeners` may name: a function of the configuration and the run folder that makes the
listener.
"""


Hears = Listener | Callable[[dict], object]
"""What may hear a run's events: a listener, or a function that is called with each event."""


class Callback:
    """A listener that calls a function with each event. `run(config, listeners=[print])` makes one
    of every function that it is given.
    """

    def __init__(self, function: Callable[[dict], object]):
        self._function = function

    def on_events(self, events: list[dict]) -> None:
        for event in events:
            self._function(event)

    def close(self) -> None:
        """The function is not told."""


def as_listeners(given: Sequence[Hears]) -> list[Listener]:
    """Listeners as they are, functions as `Callback`."""
    found: list[Listener] = []
    for one in given:
        found.append(Callback(one) if callable(one) else one)
    return found


def make_listeners(config: Config, out: Folder) -> list[Listener]:
    """The listeners that `run.listeners` names. `UserError` for an unknown name."""
    check_listeners(config.run.listeners)
    return [LISTENERS[name](config, out) for name in config.run.listeners]


def check_listeners(names: Sequence[str]) -> None:
    """Raise `UserError` for a name that is not in `LISTENERS`."""
    for name in names:
        if name not in LISTENERS:
            raise UserError(
                f"--run.listeners is {name}, but it must be one of {', '.join(sorted(LISTENERS))}."
            )


class MetricsFile:
    """Appends events to `metrics.jsonl`, one JSON object a line: at once on a disk.

    An object store gets them every 30 seconds, in parts. `metrics.jsonl` is the first; a later
    attempt, and one whose part has grown to 4 MB, begins `metrics-00001.jsonl` and so on.
    """

    def __init__(self, out: Folder):
        self._out = out
        self._unwritten: list[dict] = []
        self._last_write = time.monotonic()
        self._part = b""
        self._number = 0 if out.is_local else len(metrics_files(out))
        if out.is_local and out.exists(METRICS_FILE):
            with out.open(METRICS_FILE) as file:
                size = file.size()
                cut_off = size > 0 and file.read_at(1, size - 1) != b"\n"
            if cut_off:
                out.append(METRICS_FILE, b"\n")  # ends the line that a killed writer cut off

    def on_events(self, events: list[dict]) -> None:
        self._unwritten += events
        if self._out.is_local or time.monotonic() - self._last_write >= _REMOTE_SECONDS:
            self._write()

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        lines = "".join(json.dumps(event) + "\n" for event in self._unwritten).encode()
        if lines and self._out.is_local:
            self._out.append(METRICS_FILE, lines)
        elif lines:
            self._write_part(lines)
        self._unwritten, self._last_write = [], time.monotonic()

    def _write_part(self, lines: bytes) -> None:
        part = self._part + lines
        name = f"metrics-{self._number:05d}.jsonl" if self._number else METRICS_FILE
        self._out.write(name, part)
        self._part = part
        if len(part) >= _PART_BYTES:
            self._part, self._number = b"", self._number + 1


def metrics_files(out: Folder) -> list[str]:
    """The names of a run folder's files of events, in the order in which they were begun."""
    return metrics_among(out.names())


def metrics_among(files: Iterable[str]) -> list[str]:
    """Those of a run folder's `files` that hold events, in the order in which they were begun."""
    names = sorted(files)
    later = [name for name in names if _LATER_PART.fullmatch(name)]
    return [METRICS_FILE, *later] if METRICS_FILE in names else later
