"""The live view, as text in a terminal of so many columns."""

import io
import re

import pytest
from rich.console import Console

from engine.display import LinesView, LiveView, make_display, terminal
from engine.display.live import render
from engine.display.state import SILENT_SECONDS, RunState


def screen(state: RunState, width: int, now: float = 1020.0) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False, legacy_windows=False)
    console.print(render(state, "runs/birds", width, now))
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    return "\n".join(re.sub(r"[━╸╺]+", "---", line).rstrip() for line in lines)


@pytest.fixture
def state(running) -> RunState:
    state = RunState()
    state.add(running)
    return state


def test_80_columns(state):
    shown = screen(state, 80).splitlines()
    assert re.sub(" +", " ", shown[0]) == "runs/birds 22 s"
    assert [re.sub(" +", " ", line).strip() for line in shown[2:]] == [
        "personalizing done in 10 s",
        "mixing --- 96/200 made, 6 s left",
        "16 a second, 1 of 2 mixers",
        "training --- epoch 2/8, 6 s left",
        "loss 0.500, accuracy 62.5 %, 96 mixes to draw, 12 % data wait, on",
        "2 GPUs",
        "without mixes done in 11 s",
        "GPUs 3 of 4 in use",
    ]


def test_140_columns_have_a_row_for_each_phase(state):
    shown = screen(state, 140)
    assert re.search(r"mixing +--- +96/200 made, 6 s left +16 a second, 1 of 2 mixers\n", shown)
    assert re.search(r"epoch 2/8, 6 s left +loss 0.500, accuracy 62.5 %, 96 mixes", shown)
    assert shown.count("\n") == 6


def test_what_is_waited_for_and_a_long_silence_are_said(state, event):
    state.add([event("waiting", 1020.0, text="waiting for mixers 0 of 1..8")])
    assert re.search(r"waiting for +mixers 0 of 1\.\.8", screen(state, 80))
    silent = screen(state, 80, now=1021.0 + SILENT_SECONDS)
    assert re.search(r"no sign +of life for 2 min 1 s: it was killed, or cannot be rea", silent)


def test_a_phase_that_starts_says_on_what_and_for_how_long(event):
    state = RunState()
    values = {"phase": "train", "state": "begin", "workers": 4, "gpus": 2}
    state.add([event("start", 1000.0), event("phase", 1002.0, **values)])
    assert "starting 4 workers on 2 GPUs, 18 s" in screen(state, 80)


def test_the_end_is_one_line_with_the_accuracy_or_the_error(state, event):
    state.add([event("result", 1030.0, train=0.75, baseline=0.5)])
    state.add([event("end", 1030.0, outcome="done", error="")])
    shown = screen(state, 80, now=9999.0)
    assert "done: accuracy 75.0 %" in shown
    assert "without mixes  done in 11 s, test accuracy 50.0 %" in shown
    assert "32 s" in shown.splitlines()[0]
    state.add([event("end", 1030.0, outcome="failed", error="[red]the disk is full[/]")])
    assert "failed: [red]the disk is full[/]" in screen(state, 80)


def test_markup_in_a_folder_name_is_text(state):
    console = Console(width=80, file=io.StringIO())
    console.print(render(state, "runs/[bold]x", 80, 1020.0))
    assert "runs/[bold]x" in console.file.getvalue()


def test_what_is_said_stands_above_the_view(running):
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    view = LiveView("runs/birds", console, clock=lambda: 1020.0)
    view.on_events(running)
    terminal.say("warning: [half] of it")
    view.on_events([{"event": "note", "time": 1020.0, "text": "memory ran out"}])
    view.close()
    text = console.file.getvalue()
    assert "warning: [half] of it" in text
    assert "note: memory ran out" in text
    assert text.rindex("warning") < text.rindex("mixing")


def test_the_view_fits_where_it_is_shown(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert isinstance(make_display("auto", "out"), LinesView)
    monkeypatch.setattr(terminal._Terminal, "stream", Terminal())
    assert isinstance(make_display("auto", "out"), LiveView)
    assert isinstance(make_display("lines", "out"), LinesView)
