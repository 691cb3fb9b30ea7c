"""What a person sees of a run: live, as lines, as JSON; of this process's run or another's."""

from __future__ import annotations

from engine.display.lines import JsonView, LinesView
from engine.display.live import LiveView
from engine.display.terminal import stream

View = JsonView | LinesView | LiveView


def make_display(kind: str, title: str) -> View:
    """The view that `run.display` names, of the run in the folder `title`. It is a listener
    (`engine/listeners.py`).
    """
    if kind == "json":
        return JsonView()
    if kind == "live" or (kind == "auto" and stream().isatty()):
        return LiveView(title)
    return LinesView()
