"""Starting a mixer on a node: several tries, and no further mixer where they fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import tenacity

from diffmix.errors import UserError, reason
from engine.telemetry import Reporter

T = TypeVar("T")

TRIES = 3
"""How often a mixer tries to start before its actor ends."""
FAILED_STARTS = 2
"""So many actors have to fail on a node before no further one is started there."""
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0


def start(
    build: Callable[[], T], reporter: Reporter, sleep: Callable[[float], None] = time.sleep
) -> T:
    """What `build` makes. It is tried `TRIES` times, because a hub that answers 429 or a busy disk
    gets well again. Each failure is the event `mixer_failed`.

    Raises `UserError` at once, and the last try's error.
    """

    def failed(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        words = reason(error) if error else ""
        reporter.send(
            "mixer_failed",
            node=ray.get_runtime_context().get_node_id(),
            attempt=state.attempt_number,
            reason=words,
        )

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
        retry=tenacity.retry_if_not_exception_type(UserError),
        after=failed,
        reraise=True,
        sleep=sleep,
    )
    return retrying(build)


class GoodNodes:
    """Ray's arguments for each new mixer: away from nodes where mixers could not start, while there
    are others. Ray calls it in the process that runs the stream.
    """

    def __init__(self, reporter: Reporter, label: dict[str, str]):
        self._reporter, self._label = reporter, label

    def __call__(self) -> dict[str, Any]:
        bad = {
            node
            for node, failed in self._reporter.failed_starts().items()
            if failed >= TRIES * FAILED_STARTS
        }
        if not bad or not self._others(bad):
            return {}
        return {
            "label_selector": {**self._label, "ray.io/node-id": f"!in({','.join(sorted(bad))})"}
        }

    def _others(self, bad: set[str]) -> bool:
        for node in ray.nodes():
            labels = node.get("Labels", {})
            fits = all(labels.get(name) == value for name, value in self._label.items())
            if (
                node["Alive"]
                and fits
                and node["NodeID"] not in bad
                and node["Resources"].get("GPU")
            ):
                return True
        return False
