"""A section of the measurement, its goals, and what its process knows. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.sizes import REAL, REHEARSAL, Sizes

Figures = Iterator[tuple[str, float | str]]
"""What a section gives, one after the other: a figure's name and its value, or a remark's and its
text. What was given counts even if the section fails later.
"""


class Goal(NamedTuple):
    """What a figure should reach."""

    value: float
    stretch: float | None = None
    at_most: bool = False
    """Whether a lower figure is the better one."""

    def __str__(self) -> str:
        stretch = "" if self.stretch is None else f" ({self.stretch:g})"
        return f"{'<=' if self.at_most else '>='} {self.value:g}{stretch}"

    def verdict(self, figure: float) -> str:
        """`met`, `stretch met`, or by how much it is missed."""
        sign = -1 if self.at_most else 1
        if self.stretch is not None and sign * figure >= sign * self.stretch:
            return "stretch met"
        if sign * figure >= sign * self.value:
            return "met"
        if not self.value:
            return "missed"
        return f"missed by {abs(figure / self.value - 1):.0%}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One subject. `run` is `MODULE:FUNCTION` in this package; the function takes a `Context` and
    gives `Figures`.
    """

    name: str
    part: int
    seconds: int
    """Its budget, after which its process is ended."""
    run: str
    shown: tuple[str, ...]
    """Figures and remarks that are printed, if they were reached. All others are in gpu.json
    alone.
    """
    goals: dict[str, Goal] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    """Modules without which it is left out."""
    helpers: int = 0
    """Further processes that it needs."""

    def function(self) -> Callable[[Context], Figures]:
        module, _, name = self.run.partition(":")
        return getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)

    def missing(self) -> str | None:
        """The first module that it needs and that is not installed."""
        return next((name for name in self.needs if not importlib.util.find_spec(name)), None)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a section's process knows."""

    rehearse: bool
    device: str
    """`cuda`, or `cpu` in a rehearsal."""
    deadline: float
    """When the section has to be done, on `time.monotonic`'s clock."""
    scratch: str
    """A folder that all sections of the part share; it is deleted at the end."""
    known: dict[str, float] = field(default_factory=dict)
    """`section.figure` -> value, of all sections so far."""
    helpers: tuple[Connection, ...] = ()
    """To processes that wait for work: see `beside`."""
    method: str = "spawn"
    """How further processes are started."""

    @property
    def sizes(self) -> Sizes:
        return REHEARSAL if self.rehearse else REAL

    def dtype(self) -> Any:
        """The dtype that mixers compute in on this device: half precision on a GPU."""
        from diffmix.generator.base_model import device_and_dtype

        return device_and_dtype("auto")[1]

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def folder(self, name: str, write: Callable[[Path], Any]) -> Path:
        """`scratch/name`, which `write` fills where it is missing. It is complete or not there."""
        folder = Path(self.scratch, name)
        if not folder.exists():
            unfinished = folder.with_name(name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            write(unfinished)
            unfinished.rename(folder)
        return folder

    def beside(self, number: int, function: Callable, *arguments: Any) -> Connection:
        """Run `function(connection, *arguments)` in helper process `number`; gives the other end of
        the connection.
        """
        connection = self.helpers[number]
        connection.send((function, arguments))
        return connection

    def receive(self, connection: Connection) -> Any:
        """What the other process sends. Raises `TimeoutError` at the deadline, and `EOFError` where
        the process has ended.
        """
        if not connection.poll(max(0.0, self.left())):
            raise TimeoutError("the other process did not answer in time")
        return connection.recv()
