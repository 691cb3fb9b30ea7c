"""What becomes of a chunk that cannot be made: it is tried again, a mixer that hangs is replaced,
and in the end the chunk is set aside, so that the run goes on without it.

Notes of failed tries lie in the mix store's folder `tries`, where the next mixer of the chunk finds
them, and what was given up in its folder `set-aside`, until `run.repair` makes it again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Container, Iterator

import numpy as np

from diffmix.config import RunConfig
from diffmix.errors import UserError, reason
from diffmix.storage import Folder

FIRST_DEADLINE, LEAST_DEADLINE, SLOWER = 3600.0, 600.0, 10
"""Seconds, seconds and a factor of `Deadline`."""
DEATHS_FOR_A_TRY = 3
"""Most mixers that die were killed from outside: so many deaths count as one failed try."""
_DIED = "its mixer died"
_NOTE = re.compile(r"(\d{8})-\w+\.json")


class SetAside:
    """The chunks of a mix store that could not be made, and the failed tries. Cheap to make; any
    number of processes may use it at once.
    """

    def __init__(self, store: Folder):
        self._tries, self._folder = store / "tries", store / "set-aside"

    def chunks(self) -> set[int]:
        """The chunks that were given up."""
        return {int(name[:8]) for name in self._folder.names() if name.endswith(".json")}

    def mixes(self, stored: Container[int] = ()) -> int:
        """How many mixes they have, without those of `stored` chunks: a mixer of a stream that was
        given up may have stored one after all.
        """
        return sum(note["mixes"] for note in self._notes() if note["chunk"] not in stored)

    def reasons(self) -> dict[int, str]:
        """Why, by chunk."""
        return {note["chunk"]: note["reason"] for note in self._notes()}

    def holds(self, chunk: int) -> bool:
        return self._folder.exists(f"{chunk:08d}.json")

    def put(self, chunk: int, mixes: int, why: str) -> None:
        """Give a chunk up. `why` is the last try's error."""
        note = {"chunk": chunk, "mixes": mixes, "reason": why, "node": socket.gethostname()}
        self._folder.write(f"{chunk:08d}.json", json.dumps(note).encode())

    def clear(self) -> None:
        """Forget everything, so that these chunks are made again."""
        for folder in (self._tries, self._folder):
            for name in folder.names():
                with contextlib.suppress(OSError):
                    folder.delete(name)

    def forget_tries(self) -> None:
        """Start to count anew, as each run does."""
        for name in self._tries.names():
            with contextlib.suppress(OSError):
                self._tries.delete(name)

    def failed(self, chunk: int, why: str) -> str:
        """Note a failed try. Gives the note's name, for `withdraw`."""
        name = f"{chunk:08d}-{uuid.uuid4().hex}.json"
        self._tries.write(name, json.dumps({"reason": why}).encode())
        return name

    def beginning(self, chunk: int) -> str:
        """Note that a mixer begins a chunk which may be its death; see `failed`."""
        return self.failed(chunk, _DIED)

    def withdraw(self, note: str) -> None:
        """Take a note back: the try did not fail."""
        with contextlib.suppress(OSError):
            self._tries.delete(note)

    def tries(self, chunk: int) -> list[str]:
        """Why the chunk's tries failed. `DEATHS_FOR_A_TRY` deaths count as one."""
        whys = []
        for name in self._tries.names():
            if (match := _NOTE.fullmatch(name)) and int(match[1]) == chunk:
                with contextlib.suppress(OSError, ValueError):  # withdrawn meanwhile
                    whys.append(json.loads(self._tries.read(name))["reason"])
        deaths = whys.count(_DIED)
        return [_DIED] * (deaths // DEATHS_FOR_A_TRY) + [why for why in whys if why != _DIED]

    def _notes(self) -> list[dict]:
        names = [name for name in self._folder.names() if name.endswith(".json")]
        return [json.loads(self._folder.read(name)) for name in names]


class Deadline:
    """How long a mixer may take for a chunk. One mixer owns it.

    Without `run.chunk_deadline`: ten times as long as its slowest chunk so far, at least 10
    minutes, and an hour for the first, which may compile the model.
    """

    def __init__(self, seconds: float | None):
        self._seconds, self._slowest = seconds, 0.0

    @property
    def seconds(self) -> float:
        if self._seconds is not None:
            return self._seconds
        if not self._slowest:
            return FIRST_DEADLINE
        return max(LEAST_DEADLINE, SLOWER * self._slowest)

    def took(self, seconds: float) -> None:
        """A chunk was made in so long."""
        self._slowest = max(self._slowest, seconds)

    @contextlib.contextmanager
    def watching(self, note: Callable[[str], object]) -> Iterator[None]:
        """End this process where the block takes longer: nothing else stops a kernel that hangs.
        `note` is first called with the reason.
        """
        seconds = self.seconds

        def end() -> None:
            with contextlib.suppress(Exception):
                note(f"it took longer than {seconds:g} s")
            os.kill(os.getpid(), signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        # A hang in a library may keep Python's threads from running. This one needs no Python.
        with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):  # no file
            number = sys.__stderr__.fileno()  # type: ignore[union-attr]
            faulthandler.dump_traceback_later(seconds + 60, exit=True, file=number)
        try:
            yield
        finally:
            timer.cancel()
            faulthandler.cancel_dump_traceback_later()


def most_set_aside(options: RunConfig, num_chunks: int) -> int:
    """How many chunks may be set aside; one more ends the run."""
    return max(1, int(np.floor(options.max_set_aside * num_chunks)))


def check_number(store: Folder, most: int) -> None:
    """Raise `UserError` where more chunks are set aside than `most`: then it is not the chunks."""
    aside = SetAside(store)
    count = len(aside.chunks())
    if count > most:
        raise UserError(
            f"{count} chunks of mixes could not be made, the last one because: "
            f"{list(aside.reasons().values())[-1]}; {store.uri}/set-aside names them all, mend the "
            "cause and give the same command with --run.repair True, or raise --run.max_set_aside."
        )


def short(error: BaseException) -> str:
    """An error's type and first line, for a note."""
    return f"{type(error).__name__}: {reason(error)}"[:300]
