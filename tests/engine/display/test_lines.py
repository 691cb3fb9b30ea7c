"""Plain lines and JSON lines."""

import json

import pytest

from engine.display import JsonView, LinesView


class Clock:
    """Seconds since 1970 that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


def test_one_line_says_where_every_phase_stands(running, clock, said):
    view = LinesView(every_seconds=5.0, clock=clock, say=said.append)
    clock.now = 1020.0
    view.on_events(running)
    assert said == [
        "[   22 s] mixing: 96/200 made, 16/s, 6 s left | training: epoch 2/8, loss 0.500, "
        "accuracy 62.5 %, 96 mixes available, 6 s left"
    ]


def test_lines_come_every_few_seconds_and_rarer_in_a_long_run(event, clock, said):
    view = LinesView(every_seconds=5.0, clock=clock, say=said.append)

    def step(seconds: float, number: int) -> None:
        clock.now = 1000.0 + seconds
        view.on_events([event("personalize_step", clock.now, step=number, steps=99, loss=1.0)])

    step(4.0, 1)
    assert said == []
    step(5.0, 2)
    assert len(said) == 1
    step(9.0, 3)
    assert len(said) == 1
    step(3000.0, 4)
    step(3040.0, 5)  # 50 s apart at this age
    assert len(said) == 2
    step(3051.0, 6)
    assert len(said) == 3


def test_nothing_new_prints_nothing(event, clock, said):
    view = LinesView(every_seconds=0.0, clock=clock, say=said.append)
    view.on_events([])
    view.on_events([event("start", 1000.0, command=1000.0)])
    view.on_events([event("gpus", 1000.0, used=1, all=2)])
    view.close()
    assert said == []


def test_waits_and_the_end_are_said_at_once(event, clock, said):
    view = LinesView(every_seconds=3600.0, clock=clock, say=said.append)
    view.on_events([event("start", 1000.0, command=990.0)])
    view.on_events([event("waiting", 1000.0, text="waiting for 1 GPUs (0 of 1)")])
    view.on_events([event("waiting", 1000.0, text="waiting for 1 GPUs (0 of 1)")])
    view.on_events([event("waiting", 1000.0, text="")])
    view.on_events([event("result", 1000.0, train=0.75, baseline=0.5)])
    view.on_events([event("end", 1000.0, outcome="done", error="")])
    assert [line.partition("] ")[2] for line in said] == [
        "waiting for 1 GPUs (0 of 1)",
        "waiting is over",
        "done: accuracy 75.0 %",
    ]


def test_a_filter_says_how_many_are_scored(event, clock, said):
    view = LinesView(every_seconds=0.0, clock=clock, say=said.append)
    view.on_events([{"event": "score", "scored": 8, "mixes": 32}])
    assert said[0].endswith("scoring: 8 of 32 mixes")


def test_json_lines_are_the_events(running, capsys):
    view = JsonView()
    view.on_events(running[:4])
    view.on_events([])
    view.close()
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == running[:4]


def test_a_note_is_said_at_once(event, clock, said):
    view = LinesView(every_seconds=3600.0, clock=clock, say=said.append)
    view.on_events([event("note", 1000.0, text="memory ran out")])
    assert said == ["[    0 s] note: memory ran out"]
