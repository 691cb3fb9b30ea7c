"""The project's own GPU tests, in a process of pytest's."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.gpu.section import Context, Figures

ROOT = Path(__file__).parent.parent.parent
_RESULT = re.compile(r"^\S+::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)
_REASON = re.compile(r"^(?:FAILED|ERROR) \S+::(\S+) - (.*)", re.MULTILINE)


def run(context: Context) -> Figures:
    """How many tests of `tests/gpu` passed, failed and were left out."""
    # Without the project's own options: they need beartype.
    options = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-v", "-rfE"]
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", *options]
    log = Path(context.scratch, "tests.log")
    stopped = False
    with log.open("w", encoding="utf-8") as file:
        try:
            subprocess.run(command, cwd=ROOT, timeout=context.left() - 2, stdout=file)
        except subprocess.TimeoutExpired:
            stopped = True
    text = log.read_text(encoding="utf-8")
    print(text)
    yield from counts(text)
    if stopped:
        raise TimeoutError("the tests were stopped: their time was used up")


def counts(text: str) -> Figures:
    """What pytest's verbose output says: numbers, and the reason of each failure."""
    found = Counter(result for _, result in _RESULT.findall(text))
    if not found:
        raise RuntimeError("pytest ran no test; see the log")
    yield "passed", found["PASSED"]
    yield "failed", found["FAILED"] + found["ERROR"]
    yield "skipped", found["SKIPPED"]
    for name, reason in _REASON.findall(text):
        yield name, reason[:300]
