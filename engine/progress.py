"""The progress display: a line every few seconds about what the cluster is doing."""

from __future__ import annotations

import sys
import time


class Display:
    """A listener that prints events as one line every few seconds, on standard error. Owned by the
    run's session.
    """

    def __init__(self, every_seconds: float = 5.0):
        self.every_seconds = every_seconds
        self._last = time.monotonic()
        self._started = time.time()
        self._mixes = 0
        self._state: dict[str, str] = {}

    def on_events(self, events: list[dict]) -> None:
        for event in events:
            if event["event"] == "waiting":
                self._print(event["text"] or "nothing is waited for any more")
            elif event["event"] == "note":
                self._print(f"Note: {event['text']}.")
            else:
                self._note(event)
        if self._state and time.monotonic() - self._last >= self.every_seconds:
            self._last = time.monotonic()
            self._print(" | ".join(self._state.values()))
            self._state.clear()

    def close(self) -> None:
        """Nothing is left to print: the command ends with a table of its own."""

    def _print(self, text: str) -> None:
        seconds = time.time() - self._started
        print(f"[{seconds:5.0f} s] {text}", file=sys.stderr, flush=True)

    def _note(self, event: dict) -> None:
        kind = event["event"]
        if kind == "personalize_step":
            self._state[kind] = (
                f"personalizing: step {event['step']}/{event['steps']}, loss {event['loss']:.3f}"
            )
        elif kind == "mix":
            self._mixes += event["mixes"]
            self._state[kind] = f"mixing: {self._mixes} made"
        elif kind == "score":
            self._state[kind] = f"scoring: {event['scored']} of {event['mixes']} mixes"
        elif kind in ("train", "baseline"):
            name = "training" if kind == "train" else "training without mixes"
            self._state[kind] = (
                f"{name}: epoch {event['epoch'] + 1}, loss {event['loss']:.3f}, "
                f"{event['pool']} mixes available"
            )
