"""The live view of a run in a terminal: one table that is drawn anew every second."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from engine.display.lines import ending, progress
from engine.display.state import PHASES, Phase, RunState, duration
from engine.display.terminal import say_above, stream

_WIDE = 110
"""Columns from which a phase needs one row instead of two."""
_NAME_COLUMNS = 14


class LiveView:
    """A listener that draws where a run stands. Owned by the run's session, or by `diffmix watch`.
    The last drawing stays on the screen.
    """

    def __init__(
        self,
        title: str,
        console: Console | None = None,
        clock: Callable[[], float] = time.time,
    ):
        """`title` is the run folder; `clock` gives seconds since 1970."""
        self.title, self._clock = title, clock
        self._console = console or Console(file=stream(), highlight=False)
        self._state = RunState()
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="ellipsis",
        )

    def on_events(self, events: list[dict]) -> None:
        self._state.add(events)
        if not self._live.is_started:
            self._live.start()
            say_above(lambda text: self._console.print(Text(text)))
        for event in events:
            if event.get("event") == "note":
                self._console.print(Text(f"note: {event['text']}"))
        drawn = render(self._state, self.title, self._console.width, self._clock())
        self._live.update(drawn, refresh=True)

    def close(self) -> None:
        say_above(None)
        self._live.stop()


def render(state: RunState, title: str, width: int, now: float) -> RenderableType:
    """The view at `now` (seconds since 1970) for a terminal of so many columns."""
    rows: list[RenderableType] = [_head(state, title, now), Rule(style="dim")]
    body = Table.grid(padding=(0, 1), expand=True)
    body.add_column(width=_NAME_COLUMNS, no_wrap=True)
    body.add_column(ratio=1)
    for name, phase in state.phases.items():
        if phase.begun is not None:
            body.add_row(Text(PHASES[name]), _phase(name, phase, state, width, now))
    if state.scoring is not None:
        scored, mixes = state.scoring
        bar = _bar(scored, mixes, scored == mixes)
        body.add_row(Text("scoring"), _columns(bar, f"{scored}/{mixes} mixes", width))
    if state.gpus is not None and not state.outcome:
        used, every = state.gpus
        body.add_row(Text("GPUs", style="dim"), Text(f"{used:g} of {every:g} in use", style="dim"))
    if state.waiting:
        body.add_row(Text("waiting for", style="yellow"), Text(state.waiting, style="yellow"))
    silence = _silence(state, now)
    if silence:
        body.add_row(Text("no sign", style="yellow"), Text(silence, style="yellow"))
    if body.row_count:
        rows.append(body)
    return Group(*rows)


def _head(state: RunState, title: str, now: float) -> Table:
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    end = state.last if state.outcome and state.last is not None else now
    passed = duration(end - state.command) if state.command is not None else ""
    attempt = f"attempt {state.attempts}, " if state.attempts > 1 else ""
    head.add_row(Text(title, style="bold"), Text(f"{attempt}{passed}", style="dim"))
    if state.outcome:
        color = {"done": "green", "failed": "red"}.get(state.outcome, "yellow")
        head.add_row(Text(ending(state), style=color), Text())
    return head


def _silence(state: RunState, now: float) -> str:
    if state.last is None or not state.is_silent(now):
        return ""
    return f"of life for {duration(now - state.last)}: it was killed, or cannot be reached"


def _phase(name: str, phase: Phase, state: RunState, width: int, now: float) -> RenderableType:
    where = _where(name, phase, state)
    if phase.ended is not None and phase.begun is not None:
        accuracy = _accuracy(phase)
        facts = [f"done in {duration(phase.ended - phase.begun)}", *accuracy]
        if name == "mix":
            facts.insert(0, progress(name, phase))
        return Text(", ".join(facts), style="green")
    if state.outcome:
        return Text(", ".join(["stopped", progress(name, phase)]), style="yellow")
    if not phase.times:
        since = duration(now - phase.begun) if phase.begun is not None else ""
        comma = "," if name == "mix" else ""  # `starting, 0 of 2 mixers` but `starting on 2 GPUs`
        return Text(f"starting{f'{comma} {where}' if where else ''}, {since}", style="dim")
    facts = _facts(name, phase, state)
    done = _columns(_bar(phase.done, phase.of, False), _figures(name, phase), width)
    details = Text(", ".join([*facts, where] if where else facts), style="dim")
    if width >= _WIDE:
        both = Table.grid(padding=(0, 2), expand=True)
        both.add_column(ratio=1)
        both.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        both.add_row(done, details)
        return both
    return Group(done, details)


def _figures(name: str, phase: Phase) -> str:
    """How far, and how long it still takes."""
    left = phase.seconds_left()
    return progress(name, phase) + (f", {duration(left)} left" if left is not None else "")


def _facts(name: str, phase: Phase, state: RunState) -> list[str]:
    found = []
    rate = phase.rate()
    if name == "mix" and rate:
        found.append(f"{rate:.3g} a second")
    if phase.loss is not None:
        found.append(f"loss {phase.loss:.3f}")
    found += _accuracy(phase)
    if name == "train" and phase.pool:
        found.append(f"{sum(phase.pool.values())} mixes to draw")
    wait = state.data_wait(name)
    if wait is not None:
        found.append(f"{100 * wait:.0f} % data wait")
    return found


def _accuracy(phase: Phase) -> list[str]:
    if phase.accuracy is None:
        return []
    return [f"{'test ' if phase.tested else ''}accuracy {100 * phase.accuracy:.1f} %"]


def _where(name: str, phase: Phase, state: RunState) -> str:
    """On what a phase runs: `on 2 GPUs`, `2 workers on 1 GPU`."""
    if name == "mix":
        ready = len(state.mixers)
        if phase.workers and ready < phase.workers:
            return f"{ready} of {_counted(phase.workers, 'mixer')}"
        return _counted(ready, "mixer")
    if phase.workers is None:
        return ""
    if phase.gpus == phase.workers:
        return f"on {_counted(phase.gpus, 'GPU')}"
    on = f" on {_counted(phase.gpus, 'GPU')}" if phase.gpus else ""
    return f"{_counted(phase.workers, 'worker')}{on}"


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _bar(done: int, of: int | None, finished: bool) -> ProgressBar:
    total = float(of) if of else None
    style = "green" if finished else "cyan"
    return ProgressBar(total or 1.0, min(done, total) if total else 0.0, complete_style=style)


def _columns(bar: RenderableType, figures: str, width: int) -> Table:
    """A bar and, right of it, figures; both aligned with those of other phases."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(width=34 if width >= 80 else 24, no_wrap=True, overflow="ellipsis")
    grid.add_row(bar, Text(figures))
    return grid
