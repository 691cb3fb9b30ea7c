"""The display as plain lines and as JSON lines, for logs, pipes and programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from engine.display.state import PHASES, Phase, RunState, duration
from engine.display.terminal import say

_MOST_SECONDS = 60.0
_SHARE = 1 / 60
"""The pause between lines grows with the run: a day's log is read later, and as a whole."""


class LinesView:
    """A listener that says where a run stands, as one line every few seconds, and at once what
    is waited for and how it ended. Owned by the run's session, or by `diffmix watch`.
    """

    def __init__(
        self,
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.time,
        say: Callable[[str], None] = say,
    ):
        """`clock` gives seconds since 1970; `say` prints a line."""
        self.every_seconds = every_seconds
        self._clock, self._say = clock, say
        self._state = RunState()
        self._began = self._last = clock()
        self._waiting = self._outcome = ""
        self._unsaid = False

    def on_events(self, events: list[dict]) -> None:
        self._state.add(events)
        for event in events:
            if event.get("event") == "note":
                self._line(f"note: {event['text']}")
        self._unsaid = self._unsaid or any(event.get("event") in _MOVES for event in events)
        if self._state.waiting != self._waiting:
            self._waiting = self._state.waiting
            self._line(f"waiting for {self._waiting}" if self._waiting else "waiting is over")
        now = self._clock()
        pause = max(self.every_seconds, min(_MOST_SECONDS, _SHARE * (now - self._began)))
        if self._unsaid and now - self._last >= pause:
            parts = summary_parts(self._state)
            if parts:
                self._line(" | ".join(parts))
            self._last, self._unsaid = now, False
        if self._state.outcome != self._outcome:
            self._outcome = self._state.outcome
            if self._outcome:
                self._line(ending(self._state))

    def close(self) -> None:
        """Nothing is left to print: the command ends with a table of its own."""

    def _line(self, text: str) -> None:
        self._say(f"[{self._clock() - (self._state.command or self._began):5.0f} s] {text}")


class JsonView:
    """A listener that prints each event as a line of JSON on standard output."""

    def on_events(self, events: list[dict]) -> None:
        for event in events:
            print(json.dumps(event), file=sys.stdout, flush=True)

    def close(self) -> None:
        """Every event is printed already."""


_MOVES = {"personalize_step", "mix", "train", "baseline", "score", "validation", "phase"}
"""Kinds of events that are worth a new line."""


def summary_parts(state: RunState) -> list[str]:
    """A phrase for each phase that is at work."""
    parts = []
    for name in PHASES:
        phase = state.phases[name]
        if phase.begun is not None and phase.ended is None:
            parts.append(f"{PHASES[name] if name != 'baseline' else 'training without mixes'}: ")
            parts[-1] += _phrase(name, phase, state)
    if state.scoring is not None:
        parts.append(f"scoring: {state.scoring[0]} of {state.scoring[1]} mixes")
    return parts


def _phrase(name: str, phase: Phase, state: RunState) -> str:
    if not phase.times:
        return "starting"
    found = [progress(name, phase)]
    rate, left = phase.rate(), phase.seconds_left()
    if name == "mix" and rate:
        found.append(f"{rate:.3g}/s")
    if phase.loss is not None:
        found.append(f"loss {phase.loss:.3f}")
    if phase.accuracy is not None:
        found.append(f"accuracy {100 * phase.accuracy:.1f} %")
    if name == "train" and phase.pool:
        found.append(f"{sum(phase.pool.values())} mixes available")
    if left is not None:
        found.append(f"{duration(left)} left")
    return ", ".join(found)


def progress(name: str, phase: Phase) -> str:
    """How far a phase is, in its own unit: `step 3/9`, `24/600 made`, `epoch 2/10`."""
    done = f"{phase.done}/{phase.of}" if phase.of else f"{phase.done}"
    if name == "mix":
        return f"{done} made"
    return f"step {done}" if name == "personalize" else f"epoch {done}"


def ending(state: RunState) -> str:
    """How the run ended, as one phrase."""
    words = {"done": "done", "failed": "failed", "interrupted": "interrupted"}
    text = words.get(state.outcome, state.outcome)
    tested = state.phases["train"]
    if state.outcome == "done" and tested.tested and tested.accuracy is not None:
        text += f": accuracy {100 * tested.accuracy:.1f} %"
    return f"{text}: {state.error}" if state.error else text
