"""GPU-hours by phase: Ray's GPUs times the seconds that workers held them."""

import pytest

from engine.results.gpu_hours import gpu_hours


def begin(phase: str, time: float, workers: int, gpus: float) -> dict:
    values = {"phase": phase, "state": "begin", "workers": workers, "gpus": gpus}
    return {"event": "phase", "time": time, **values}


def end(phase: str, time: float) -> dict:
    return {"event": "phase", "time": time, "phase": phase, "state": "end"}


def chunk(actor: str, start: float, stop: float, kind: str = "mix") -> dict:
    return {"event": kind, "time": stop, "actor": actor, "start": start, "end": stop}


def epoch(stop: float) -> dict:
    return {"event": "train", "time": stop, "start": stop - 1, "end": stop}


def hours(*events: dict) -> dict[str, float]:
    return {phase: round(3600 * found, 6) for phase, found in gpu_hours(events).items()}


def test_train_workers_hold_their_gpus_from_the_beginning_to_the_end():
    assert hours(begin("train", 10, 4, 2.0), epoch(15), end("train", 30)) == {"train": 2 * 20}


def test_mixers_hold_theirs_from_their_start_to_their_last_chunk():
    ready = chunk("a", 0, 5, "mixer_ready")
    late = chunk("b", 20, 30)
    made = [begin("mix", 0, 8, 4.0), ready, chunk("a", 6, 10), chunk("a", 11, 40), late]
    assert hours(*made) == {"mix": 0.5 * (40 + 10)}
    # Between two attempts nobody holds anything.
    assert hours(*made, chunk("b", 1000, 1010)) == {"mix": 0.5 * (40 + 10 + 10)}


def test_a_killed_attempt_counts_to_the_last_thing_it_did():
    start = {"event": "start", "time": 500.0}
    first = [begin("train", 10, 1, 1.0), epoch(20), epoch(25), start]
    assert hours(*first) == {"train": 15}
    assert hours(*first, begin("train", 510, 1, 1.0), end("train", 530)) == {"train": 15 + 20}


def test_a_group_that_changes_its_size_holds_as_many_as_it_has():
    grown = {"event": "resize", "time": 20.0, "phase": "train", "workers": 3, "before": 1}
    events = [begin("train", 10, 1, 1.0), epoch(15), grown, epoch(24), end("train", 25)]
    assert hours(*events) == {"train": 10 + 3 * 5}


def test_personalization_ends_with_its_own_event():
    step = {"event": "personalize_step", "time": 15.0}
    done = {"event": "personalize", "time": 20.0, "start": 10.0, "end": 20.0}
    events = [begin("personalize", 10, 2, 2.0), step, done]
    assert hours(*events, {"event": "mix", **chunk("a", 90, 99)}) == {"personalize": 20}
    assert hours(*events[:2]) == {"personalize": 2 * 5}


def test_runs_without_gpus_or_without_these_events_have_none():
    assert hours(begin("train", 10, 1, 0.0), end("train", 30)) == {}
    assert hours(epoch(20), chunk("a", 6, 10)) == {}


@pytest.mark.parametrize("events", [[], [{"event": "start", "time": 1.0}]])
def test_nothing_begun(events):
    assert gpu_hours(events) == {}
