"""`diffmix ls`: the runs below a folder, each as one line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.fs as pafs

from diffmix import storage
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.budget.spending import spent_before
from engine.display.state import PHASES, RunState
from engine.listeners import METRICS_FILE
from engine.results.figures import wall_seconds
from engine.results.gpu_hours import gpu_hours
from engine.run_folder import read_json
from engine.telemetry import read_events

_MOST_DEPTH = 4
"""Levels below the folder that are looked at."""


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run, as `diffmix ls` shows it."""

    name: str
    """Path below the folder."""
    state: str
    """`done`, `failed`, `interrupted`, `dead` (it stopped without a word), or what it does."""
    accuracy: float | None
    """Of the test, with mixes; 0 to 1. So is `baseline`, without."""
    baseline: float | None
    stored: int
    """Mixes that are made; `planned` is how many there will be."""
    planned: int
    gpu_hours: float | None
    """None: unknown."""
    usd: float | None
    """Of all nodes that were up, by `limits.prices`. None: not measured."""
    seconds: float
    """Of work, over all attempts."""
    last: float
    """When it was last heard of, in seconds since 1970."""


def find_runs(uri: str, now: float | None = None) -> list[RunLine]:
    """The runs below a folder (path or URI), the latest first. A run is a folder with
    `metrics.jsonl`; inside of one nothing is looked for.

    `now` is in seconds since 1970; None: the time. Raises `UserError` where there is no folder.
    """
    folder = Folder(uri)
    if not folder.exists():
        raise UserError(f"{uri} does not exist; name a folder with runs: diffmix ls FOLDER.")
    now = time.time() if now is None else now
    lines = [_line(name, one, now) for name, one in _below(folder, "", _MOST_DEPTH)]
    return sorted(lines, key=lambda line: -line.last)


def _below(folder: Folder, name: str, depth: int) -> Iterator[tuple[str, Folder]]:
    remote, path = storage.filesystem(folder.uri)
    infos = remote.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    if any(info.base_name == METRICS_FILE for info in infos):
        yield name or ".", folder
    elif depth:
        for info in sorted(infos, key=lambda info: info.base_name):
            if info.type == pafs.FileType.Directory and not info.base_name.startswith("."):
                inner = f"{name}/{info.base_name}" if name else info.base_name
                yield from _below(folder / info.base_name, inner, depth - 1)


def _line(name: str, folder: Folder, now: float) -> RunLine:
    events = read_events(folder)
    state = RunState()
    state.add(events)
    summary = read_json(folder, "summary.json") if folder.exists("summary.json") else {}
    plan, mixing = summary.get("plan", {}), state.phases["mix"]
    hours = gpu_hours(events)
    return RunLine(
        name=name,
        state=_state(state, bool(summary), now),
        accuracy=summary.get("accuracy", {}).get("top1"),
        baseline=summary.get("baseline", {}).get("top1"),
        stored=plan.get("stored", 0) + plan.get("rejected", 0) if plan else mixing.done,
        planned=plan.get("planned", mixing.of or 0),
        gpu_hours=sum(hours.values()) if hours else None,
        usd=spent_before(events).usd or None,
        seconds=wall_seconds(events),
        last=state.last or 0.0,
    )


def _state(state: RunState, finished: bool, now: float) -> str:
    if state.outcome:
        return state.outcome
    if state.is_silent(now):
        return "done" if finished else "dead"
    if state.waiting:
        return "waiting"
    busy = [
        PHASES[name]
        for name, phase in state.phases.items()
        if phase.begun is not None and phase.ended is None
    ]
    return ", ".join(busy) or "starting"
