"""Where a run stands, from events alone."""

import pytest

from engine.display.state import SILENT_SECONDS, RunState, age, duration


@pytest.fixture
def state(running) -> RunState:
    state = RunState()
    state.add(running)
    return state


def test_each_phase_is_where_its_events_say(state):
    phases = state.phases
    assert phases["personalize"].ended - phases["personalize"].begun == 10.0
    assert (phases["mix"].done, phases["mix"].of, phases["mix"].ended) == (96, 200, None)
    assert (phases["train"].done, phases["train"].of) == (2, 8)
    assert phases["train"].accuracy == 0.625
    assert not phases["train"].tested
    assert sum(phases["train"].pool.values()) == 96
    assert state.mixers.keys() == {"a"}
    assert state.gpus == (3, 4)
    assert state.command == 998.0


def test_rates_and_what_is_left(state):
    assert state.phases["mix"].rate() == pytest.approx(16.0)
    assert state.phases["mix"].seconds_left() == pytest.approx((200 - 96) / 16)
    assert state.phases["train"].seconds_left() == pytest.approx(6.0)
    assert state.phases["personalize"].seconds_left() is None
    # Rank 0 waits for nothing, rank 1 a quarter of its last epoch of one second.
    assert state.data_wait("train") == pytest.approx(0.125)


def test_the_rate_is_that_of_the_last_minute(event):
    state = RunState()
    for begin, mixes in ((0, 100), (1000, 1), (1030, 1), (1059, 2)):
        times = {"start": float(begin), "end": begin + 1.0}
        state.add([event("mix", begin + 1.0, actor="a", chunk=begin, mixes=mixes, **times)])
    assert state.phases["mix"].rate() == pytest.approx(3 / 59)


def test_a_wait_lasts_until_an_empty_text(state, event):
    state.add([event("waiting", 1021.0, text="waiting for 2 train nodes (0 of 2)")])
    assert state.waiting == "2 train nodes (0 of 2)"
    state.add([event("waiting", 1022.0, text="")])
    assert state.waiting == ""


def test_a_new_attempt_keeps_what_is_stored_and_forgets_what_was_going_on(state, event):
    state.add([event("start", 1500.0, command=1499.0)])
    state.add([event("plan", 1501.0, planned=200, stored=96, epochs=8)])
    assert state.attempts == 2
    assert state.phases["mix"].begun is None
    assert state.phases["personalize"].ended is not None
    times = {"start": 1502.0, "end": 1503.0}
    state.add([event("mix", 1503.0, actor="b", mixes=4, chunk=9, **times)])
    assert state.phases["mix"].done == 100
    assert state.phases["mix"].rate() == pytest.approx(4.0)


def test_a_run_whose_mixes_are_all_there_is_done_mixing(event):
    state = RunState()
    state.add([event("plan", 1.0, planned=10, stored=10, epochs=1)])
    assert state.phases["mix"].ended == 1.0


def test_the_end_and_the_test_accuracy(state, event):
    state.add([event("result", 1030.0, train=0.75, baseline=None)])
    state.add([event("end", 1031.0, outcome="failed", error="the disk is full")])
    assert (state.phases["train"].accuracy, state.phases["train"].tested) == (0.75, True)
    assert state.phases["baseline"].accuracy is None
    assert (state.outcome, state.error) == ("failed", "the disk is full")


def test_silence_and_unknown_events(state, event):
    assert not state.is_silent(1020.0 + SILENT_SECONDS)
    assert state.is_silent(1021.0 + SILENT_SECONDS)
    state.add([event("of a newer version", 1100.0)])
    assert not state.is_silent(1021.0 + SILENT_SECONDS)
    state.add([event("end", 1100.0, outcome="done")])
    assert not state.is_silent(9999.0)


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0.4, "0 s", "0 s"),
        (59.2, "59 s", "59 s"),
        (185, "3 min 5 s", "3 min"),
        (4000, "1 h 6 min", "66 min"),
        (90000, "25 h 0 min", "25 h"),
        (300000, "3 d 11 h", "3 d"),
    ],
)
def test_durations_for_people(seconds, long, short):
    assert duration(seconds) == long
    assert age(seconds) == short


def test_what_was_not_done_when_the_run_is_done_was_set_aside(state, event):
    state.add([event("end", 1040.0, outcome="done")])
    assert (state.phases["mix"].done, state.phases["mix"].ended) == (96, 1040.0)
