"""What a session records while its phases work. Ray and the telemetry are stand-ins here."""

import contextlib
from types import SimpleNamespace

import pytest

from diffmix.errors import UserError
from engine import session


class Recorded:
    """Stands in for the telemetry."""

    def __init__(self):
        self.events, self.collected, self.closed = [], 0, False

    def record(self, kind, **values):
        self.events.append({"event": kind, **values})

    def collect(self):
        self.collected += 1

    def close(self):
        self.closed = True


@pytest.fixture
def four_gpus(monkeypatch):
    """A cluster of four GPUs, of which `free` are free."""
    found = SimpleNamespace(free=1.0)
    fake = SimpleNamespace(
        cluster_resources=lambda: {"GPU": 4.0},
        available_resources=lambda: {"GPU": found.free},
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    monkeypatch.setattr(session, "ray", fake)
    return found


@pytest.mark.parametrize(
    ("error", "outcome", "why"),
    [
        (None, "done", ""),
        (UserError("The disk is full."), "failed", "The disk is full"),
        (KeyboardInterrupt(), "interrupted", ""),
    ],
)
def test_how_a_run_ended_is_its_last_event(four_gpus, error, outcome, why):
    telemetry = Recorded()
    expected = pytest.raises(type(error)) if error else contextlib.nullcontext()
    with expected, session._collecting(telemetry):
        if error is not None:
            raise error
    assert telemetry.events[-1] == {"event": "end", "outcome": outcome, "error": why}
    assert telemetry.collected >= 1
    assert telemetry.closed


def test_usage_is_recorded_when_it_changes_and_as_a_sign_of_life(four_gpus, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: now[0]))
    telemetry, usage = Recorded(), session._Usage()

    def at(seconds: float) -> list[tuple]:
        now[0] = 1000.0 + seconds
        usage.record(telemetry)
        return [(event["used"], event["all"]) for event in telemetry.events]

    assert at(0) == [(3.0, 4.0)]
    assert at(6) == [(3.0, 4.0)]
    four_gpus.free = 0.0
    assert at(8) == [(3.0, 4.0)], "the cluster is not asked more often than every five seconds"
    assert at(12) == [(3.0, 4.0), (4.0, 4.0)]
    assert at(40) == [(3.0, 4.0), (4.0, 4.0)]
    assert len(at(46)) == 3
