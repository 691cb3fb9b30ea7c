"""Where a run stands, from its events alone."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

_RATE_SECONDS = 60.0
"""The rate of mixes is that of the chunks that ended in so many seconds before the last one."""

SILENT_SECONDS = 120.0
"""Without any event for so long, a run is taken for dead: it records one at least every 30 seconds,
and an object store shows it up to 30 seconds later.
"""

PHASES = {
    "personalize": "personalizing",
    "mix": "mixing",
    "train": "training",
    "baseline": "without mixes",
}
"""A phase's name in events -> in the view, in the order of the view."""


@dataclass
class Phase:
    """One phase of a run."""

    begun: float | None = None
    """Seconds since 1970; None: not yet."""
    ended: float | None = None
    workers: int | None = None
    """Train workers, or the most mixers."""
    gpus: float | None = None
    """Ray's GPUs that they hold together."""
    done: int = 0
    """Steps, mixes or epochs so far."""
    of: int | None = None
    """How many there will be; None: unknown."""
    loss: float | None = None
    accuracy: float | None = None
    """0 to 1: of the validation while it trains, of the test when the run is over."""
    tested: bool = False
    """Whether `accuracy` is the test's."""
    pool: dict[int, int] = field(default_factory=dict)
    """Rank -> mixes that its last epoch could draw from."""
    waited: dict[int, float] = field(default_factory=dict)
    """Rank -> share of its last epoch in which it waited for data."""
    times: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=4096))
    """(seconds since 1970, done), rising: what rates are made from."""

    def rate(self) -> float | None:
        """Done per second, lately; None where too little is known."""
        recent = [point for point in self.times if point[0] >= self.times[-1][0] - _RATE_SECONDS]
        if len(recent) < 2:
            recent = list(self.times)[-2:]
        if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
            return None
        return (recent[-1][1] - recent[0][1]) / (recent[-1][0] - recent[0][0])

    def seconds_left(self) -> float | None:
        """Until all is done, at the present rate; None where that is unknown."""
        rate = self.rate()
        if self.of is None or not rate or self.ended is not None:
            return None
        return max(self.of - self.done, 0) / rate


@dataclass
class RunState:
    """Folds events into the present state. Owned by one view."""

    phases: dict[str, Phase] = field(default_factory=lambda: {name: Phase() for name in PHASES})
    command: float | None = None
    """When the last attempt's command was given, in seconds since 1970."""
    last: float | None = None
    """When the last event was recorded."""
    attempts: int = 0
    waiting: str = ""
    """What is waited for; empty: nothing."""
    mixers: dict[str, float] = field(default_factory=dict)
    """Mixer that is ready -> when it was last heard of."""
    gpus: tuple[float, float] | None = None
    """GPUs of the cluster in use, and all."""
    scoring: tuple[int, int] | None = None
    """Mixes that a filter has scored, and all."""
    outcome: str = ""
    """`done`, `failed`, `interrupted`; empty while the run goes on."""
    error: str = ""

    def add(self, events: Iterable[dict]) -> None:
        """Take events in the order in which they were recorded. Unknown kinds change nothing."""
        for event in events:
            taker = getattr(self, f"_{event.get('event')}_event", None)
            if taker is not None:
                taker(event)
            if "time" in event:
                self.last = max(self.last or 0.0, event["time"])

    def _start_event(self, event: dict) -> None:
        """A new attempt: what an earlier one was doing is over, what it made stays."""
        self.attempts += 1
        self.command = event.get("command", event.get("time"))
        self.waiting, self.outcome, self.error = "", "", ""
        self.mixers, self.gpus = {}, None
        for phase in self.phases.values():
            phase.times.clear()
            if phase.ended is None:
                phase.begun = None

    def _plan_event(self, event: dict) -> None:
        mixing = self.phases["mix"]
        mixing.of, mixing.done = event["planned"], event["stored"]
        if event["planned"] and event["stored"] >= event["planned"]:
            mixing.begun = mixing.begun or event["time"]
            mixing.ended = mixing.ended or event["time"]
        for name in ("train", "baseline"):
            self.phases[name].of = event["epochs"]

    def _phase_event(self, event: dict) -> None:
        phase = self.phases[event["phase"]]
        if event["state"] == "begin":
            phase.begun, phase.ended = event["time"], None
            phase.workers, phase.gpus = event["workers"], event["gpus"]
        else:
            phase.ended = event["time"]

    def _resize_event(self, event: dict) -> None:
        phase = self.phases[event["phase"]]
        if phase.gpus is not None and phase.workers:
            phase.gpus *= event["workers"] / phase.workers
        phase.workers = event["workers"]
        phase.pool.clear()
        phase.waited.clear()

    def _personalize_step_event(self, event: dict) -> None:
        phase = self.phases["personalize"]
        phase.begun = phase.begun or event["time"]
        phase.done, phase.of, phase.loss = event["step"], event["steps"], event["loss"]
        phase.times.append((event["time"], phase.done))

    def _personalize_event(self, event: dict) -> None:
        phase = self.phases["personalize"]
        phase.begun, phase.ended = phase.begun or event["start"], event["end"]

    def _mixer_ready_event(self, event: dict) -> None:
        self.mixers[event["actor"]] = event["end"]

    def _mix_event(self, event: dict) -> None:
        phase = self.phases["mix"]
        phase.begun = phase.begun or event["start"]
        if not phase.times:
            phase.times.append((event["start"], phase.done))
        phase.done += event["mixes"]
        phase.times.append((event["end"], phase.done))
        self.mixers[event["actor"]] = event["end"]
        if phase.of is not None and phase.done >= phase.of:
            phase.ended = event["end"]

    def _train_event(self, event: dict) -> None:
        phase = self.phases[event["event"]]
        phase.begun = phase.begun or event["start"]
        phase.done, phase.loss = event["epoch"] + 1, event["loss"]
        phase.pool[event["rank"]] = event["pool"]
        span = event["end"] - event["start"]
        phase.waited[event["rank"]] = event["wait"] / span if span > 0 else 0.0
        if event["rank"] == 0:
            if not phase.times:
                phase.times.append((event["start"], event["epoch"]))
            phase.times.append((event["end"], phase.done))

    _baseline_event = _train_event

    def _validation_event(self, event: dict) -> None:
        self.phases[event["phase"]].accuracy = event["top1"]

    def _result_event(self, event: dict) -> None:
        for name in ("train", "baseline"):
            if event.get(name) is not None:
                self.phases[name].accuracy, self.phases[name].tested = event[name], True

    def _score_event(self, event: dict) -> None:
        self.scoring = (event["scored"], event["mixes"])

    def _waiting_event(self, event: dict) -> None:
        self.waiting = event["text"].removeprefix("waiting for ")

    def _gpus_event(self, event: dict) -> None:
        self.gpus = (event["used"], event["all"])

    def _end_event(self, event: dict) -> None:
        self.outcome, self.error = event["outcome"], event.get("error", "")
        self.waiting = ""
        if self.outcome == "done":
            for phase in self.phases.values():  # chunks that were set aside are never made
                if phase.begun is not None and phase.ended is None:
                    phase.ended = event["time"]

    def is_silent(self, now: float) -> bool:
        """Whether the run goes on, but has not been heard of for long. `now` is in seconds since
        1970.
        """
        return not self.outcome and self.last is not None and now - self.last > SILENT_SECONDS

    def data_wait(self, name: str) -> float | None:
        """Share of the last epoch in which the workers of a phase waited for data."""
        waited = self.phases[name].waited
        return statistics.fmean(waited.values()) if waited else None


def age(seconds: float) -> str:
    """Seconds in one unit: `42 s`, `3 min`, `2 h`, `3 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (seconds >= length and unit == "min"):
            return f"{int(seconds // length)} {unit}"
    return f"{max(int(seconds), 0)} s"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
