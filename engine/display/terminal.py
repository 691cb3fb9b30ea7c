"""The terminal while a run goes on: it shows the run; what libraries print goes into a file."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from diffmix.errors import UserError

OURS = ("diffmix", "engine", "jobs")
"""Loggers whose warnings a person sees."""


class _Terminal:
    """The process's terminal, of which there is one."""

    stream: TextIO | None = None
    """Where the display prints while `quiet` keeps everything else away. None: standard error."""
    log: str | None = None
    """The file that `quiet` sends everything else to."""
    above: Callable[[str], None] | None = None
    """Prints a line above the live view; None while there is none."""


def stream() -> TextIO:
    """Where the display prints: standard error, also while `quiet` redirects it."""
    return _Terminal.stream or sys.stderr


def log_path() -> str | None:
    """The file that has what libraries print, or printed before a defect; None where there is
    none.
    """
    return _Terminal.log


def say(text: str) -> None:
    """Print a line where the display prints, above a live view if there is one."""
    if _Terminal.above is not None:
        _Terminal.above(text)
    else:
        print(text, file=stream(), flush=True)


def say_above(view: Callable[[str], None] | None) -> None:
    """Have `say` call `view`, which prints above itself. None: there is no live view any more."""
    _Terminal.above = view


@contextlib.contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Send what libraries and Ray print in the block, also from C++, to a new file in the system's
    temporary folder. Standard output stays, but for what Ray's own threads print. With `verbose`,
    change nothing.

    Warnings of this project's own loggers are said in the terminal. The file stays only after a
    defect; `log_path` then names it.
    """
    if verbose or _Terminal.stream is not None:
        yield
        return
    sys.stderr.flush()
    file, path = tempfile.mkstemp(prefix="diffmix-", suffix=".log")
    with contextlib.ExitStack() as undo:
        terminal = os.fdopen(os.dup(2), "w", buffering=1, errors="replace")
        undo.enter_context(terminal)
        before = sys.stderr
        # In a notebook or under a test, standard error is not what the number 2 leads to.
        _Terminal.stream = terminal if before is sys.__stderr__ else before
        _Terminal.log = path
        os.dup2(file, 2)
        os.close(file)
        sys.stderr = undo.enter_context(open(2, "w", buffering=1, closefd=False))
        output, sys.stdout = sys.stdout, _WithoutRay(sys.stdout, sys.stderr)
        for name in OURS:
            undo.callback(_with_handler(name))
        try:
            yield
        except BaseException as error:
            if isinstance(error, UserError) or not isinstance(error, Exception):
                _remove(path)  # no defect
            raise
        else:
            _remove(path)
        finally:
            sys.stderr.flush()
            sys.stderr, sys.stdout = before, output
            os.dup2(terminal.fileno(), 2)
            _Terminal.stream = None


class _WithoutRay(io.TextIOBase):
    """Standard output, but for what Ray's threads print there: its raylet's warnings."""

    def __init__(self, output: TextIO, noise: TextIO):
        self._output, self._noise = output, noise

    def _stream(self) -> TextIO:
        return self._noise if threading.current_thread().name.startswith("ray") else self._output

    def write(self, text: str) -> int:
        return self._stream().write(text)

    def flush(self) -> None:
        self._stream().flush()

    def isatty(self) -> bool:
        return not self._output.closed and self._output.isatty()

    def fileno(self) -> int:
        return self._output.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._output.encoding


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """In the block, the first Ctrl-C raises `KeyboardInterrupt`, as usual, and the second one ends
    the process at once, with exit code 130, whatever it is waiting for. So does the first one where
    SIGTERM has already told the process to end (`jobs/cli.py`). After Ctrl-C, SIGTERM is ignored:
    it would break what closes.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield  # a program that handles or ignores Ctrl-C itself
        return

    def at_once(*_: object) -> None:
        os.write(stream_number(), b"diffmix: ended at once; the same command resumes.\n")
        os._exit(130)

    def first(*_: object) -> None:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
            at_once()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, at_once)
        say("stopping; Ctrl-C again ends at once")
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, usual)


def stream_number() -> int:
    """The file descriptor of `stream`; that of standard error where it has none."""
    with contextlib.suppress(OSError, ValueError):
        return stream().fileno()
    return 2


def _remove(path: str) -> None:
    _Terminal.log = None
    with contextlib.suppress(OSError):
        os.remove(path)


def _with_handler(name: str) -> Callable[[], None]:
    """Have a logger's warnings said in the terminal; gives what undoes that."""
    logger, handler = logging.getLogger(name), _Warnings(logging.WARNING)
    passed_on, logger.propagate = logger.propagate, False
    logger.addHandler(handler)

    def undo() -> None:
        logger.removeHandler(handler)
        logger.propagate = passed_on

    return undo


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")
