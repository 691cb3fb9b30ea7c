"""Runs the sections of a part, each in a process of its own and up to its time limit, and keeps
what they give.

A section that hangs, runs out of memory or breaks the CUDA context takes nothing with it but
itself. This process never touches the GPU.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

import psutil

from benchmarks.gpu.section import Context, Section
from benchmarks.record import replace_file

PART_SECONDS = 570
_GRACE = 3.0  # seconds that a section has, after its deadline, to end by itself
_LINES = 39  # and one at the end
_REHEARSAL_TIMES = 4  # as much time: a CPU may be busy with other things


@dataclass(kw_only=True)
class Outcome:
    """What is known of a section that ran or did not."""

    verdict: str
    """`done`, or why it is not."""
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)


class Runner:
    """Runs sections one after the other. Nothing else may start processes from this one."""

    def __init__(self, scratch: str, rehearse: bool, method: str, seconds: float = PART_SECONDS):
        self.scratch, self.rehearse, self.method = scratch, rehearse, method
        self.times = _REHEARSAL_TIMES if rehearse else 1
        self.end = time.monotonic() + self.times * seconds
        self._own = _children()
        """Children that stay, such as the server that forks."""
        self._started: list[Any] = []

    def run(self, section: Section, known: dict[str, float]) -> Outcome:
        """Run one section, or say why not."""
        if missing := section.missing():
            return Outcome(verdict=f"skipped: {missing} is not installed")
        start = time.monotonic()
        if start >= self.end:
            return Outcome(verdict="skipped: the part's time was used up")
        deadline = min(start + self.times * section.seconds, self.end)
        helpers = tuple(self._start(help_out, duplex=True) for _ in range(section.helpers))
        told = (section, self.rehearse, deadline, self.scratch, known, helpers, self.method)
        ours = self._start(work, *told)
        for connection in helpers:
            connection.close()
        outcome = collect(ours, deadline + _GRACE)
        outcome.seconds = time.monotonic() - start
        self._clear()
        return outcome

    def _start(self, function: Callable, *arguments: Any, duplex: bool = False) -> Connection:
        """Start `function(connection, *arguments)` in a process; gives the other end."""
        context: Any = multiprocessing.get_context(self.method)
        ours, theirs = context.Pipe(duplex)
        process = context.Process(target=function, args=(theirs, *arguments))
        process.start()
        theirs.close()
        self._started.append(process)
        return ours

    def _clear(self) -> None:
        """End the section's processes, unless they end by themselves, and all that they started."""
        for process in self._started:
            process.join(_GRACE)
        leftover = [child for child in _children() if child not in self._own]
        for child in leftover:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(leftover, _GRACE)
        for process in self._started:
            process.join(_GRACE)
        self._started.clear()


def collect(connection: Connection, until: float) -> Outcome:
    """What a section sends, until it is done, its process ends, or `until` comes on the monotonic
    clock.
    """
    outcome = Outcome(verdict="its process ended without a word; see the log")
    while True:
        if not connection.poll(max(0.0, until - time.monotonic())):
            outcome.verdict = "stopped: its time was used up"
            return outcome
        try:
            name, value = connection.recv()
        except EOFError:
            return outcome
        if name is None:
            outcome.verdict = value
            return outcome
        (outcome.remarks if isinstance(value, str) else outcome.figures)[name] = value


def work(
    connection: Connection,
    section: Section,
    rehearse: bool,
    deadline: float,
    scratch: str,
    known: dict[str, float],
    helpers: tuple[Connection, ...],
    method: str,
) -> None:
    """A section's process: sends each figure when it is there, and at the end None and the
    verdict.
    """
    try:
        from benchmarks import record

        device = "cpu" if rehearse else "cuda"
        context = Context(
            rehearse=rehearse,
            device=device,
            deadline=deadline,
            scratch=scratch,
            known=known,
            helpers=helpers,
            method=method,
        )
        with record.without_tf32():  # where it is wanted, a section says so
            for name, value in section.function()(context):
                connection.send((name, value if isinstance(value, str) else float(value)))
        connection.send((None, "done"))
    except BaseException as error:
        traceback.print_exc()
        last = traceback.format_exception_only(error)[-1].strip().splitlines()
        connection.send((None, f"failed: {last[0][:300] if last else type(error).__name__}"))


def help_out(connection: Connection) -> None:
    """A helper's process: does the work that a section sends it."""
    from benchmarks import record

    try:
        function, arguments = connection.recv()
    except EOFError:
        return  # the section ended without work for it
    with record.without_tf32():
        function(connection, *arguments)


def describe(connection: Connection, rehearse: bool) -> None:
    """Send the machine and the versions, or the text of what went wrong with its GPU."""
    try:
        import torch

        from benchmarks.record import machine, versions

        if not rehearse:
            torch.ones(1, device="cuda").sum().item()
        connection.send((machine(), versions()))
    except Exception as error:
        connection.send(traceback.format_exception_only(error)[-1].strip())


def start_method(rehearse: bool) -> tuple[str, dict, dict]:
    """How sections are started, this machine, and its versions.

    Forks of a process that has imported everything start at once. Some imports start CUDA, which
    forks cannot use; then each process imports for itself. Raises `RuntimeError` where there is no
    usable GPU.
    """
    # torch then asks the driver's monitoring library for GPUs, and does not start CUDA.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    multiprocessing.set_forkserver_preload(["benchmarks.gpu.preload"])
    answer: Any = "no answer"
    for method in ("forkserver", "spawn"):
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=describe, args=(theirs, rehearse))
        process.start()
        theirs.close()
        try:
            answer = ours.recv()
        except EOFError:
            answer = f"its process ended with {process.exitcode}"
        process.join()
        if isinstance(answer, tuple):
            return method, *answer
    raise RuntimeError(f"there is no usable GPU here ({answer})")


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


class Record:
    """`gpu.json` in a folder, and the lines that are printed. Each section is kept when it ends."""

    def __init__(self, out: Path, machine: dict, versions: dict, rehearse: bool, printed: TextIO):
        self.path, self.printed = out / "gpu.json", printed
        self.lines = self.shown = 0
        self.content: dict[str, Any] = {
            "machine": machine,
            "versions": versions,
            "rehearsal": rehearse,
            "figures": {},
            "sections": {},
        }
        self._go_on()

    def _go_on(self) -> None:
        """Take over what the other part has left, if this machine made it."""
        if not self.path.exists():
            return
        old = json.loads(self.path.read_text(encoding="utf-8"))
        same = all(old.get(key) == self.content[key] for key in ("versions", "rehearsal"))
        if same and old["machine"]["gpus"] == self.content["machine"]["gpus"]:
            self.content |= {key: old[key] for key in ("figures", "sections")}
        else:
            aside = self.path.with_name("gpu.before.json")
            self.path.replace(aside)
            self.show(f"gpu.json was made by another machine or other versions: now {aside.name}")

    @property
    def figures(self) -> dict[str, float]:
        """`section.figure` -> value."""
        return self.content["figures"]

    def keep(self, section: Section, outcome: Outcome) -> None:
        """Write the section's outcome down and print its lines."""
        goals = {
            name: {"goal": str(goal), "verdict": goal.verdict(outcome.figures[name])}
            for name, goal in section.goals.items()
            if name in outcome.figures and not self.content["rehearsal"]
        }
        prefix = f"{section.name}."
        kept = {name: value for name, value in self.figures.items() if not name.startswith(prefix)}
        kept |= {prefix + name: value for name, value in outcome.figures.items()}
        self.content["figures"] = kept
        self.content["sections"][section.name] = {
            "part": section.part,
            "verdict": outcome.verdict,
            "seconds": round(outcome.seconds, 1),
            "goals": goals,
            "remarks": outcome.remarks,
        }
        replace_file(self.path, json.dumps(self.content, indent=2, ensure_ascii=False) + "\n")
        self._print(section, outcome, goals)

    def _print(self, section: Section, outcome: Outcome, goals: dict[str, dict[str, str]]) -> None:
        seconds = f"{outcome.seconds:.0f} s"
        shown = [name for name in section.shown if name in outcome.figures | outcome.remarks]
        for name in shown:
            goal = goals.get(name, {"goal": "", "verdict": outcome.remarks.get(name, "")})
            value = f"{outcome.figures[name]:.4g}" if name in outcome.figures else "-"
            self.row(f"{section.name}.{name}", value, goal["goal"], goal["verdict"], seconds)
            seconds = ""
        if outcome.verdict != "done" or not shown:
            self.row(section.name, "", "", outcome.verdict, seconds)

    def row(self, *cells: str) -> None:
        """Print figure, value, goal, verdict and seconds."""
        name, value, goal, verdict, seconds = cells
        self.show(f"{name:<42}{value:>10}{goal:>14}  {verdict[:80]:<14}{seconds:>6}".rstrip())

    def show(self, line: str) -> None:
        """Print a line, if there are not too many already."""
        self.lines += 1
        if self.lines <= _LINES:
            print(line, file=self.printed, flush=True)
            self.shown += 1


def run_part(sections: list[Section], runner: Runner, kept: Record) -> None:
    """Run sections one after the other and keep what they give."""
    for section in sections:
        kept.keep(section, runner.run(section, kept.figures))


def quiet(log: Path) -> TextIO:
    """Send all that this process and its children print to a file from now on; gives where lines
    go that a person is to read.
    """
    printed = os.fdopen(os.dup(1), "w")
    sys.stdout.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return printed
