"""Several processes of one node."""

import subprocess
import sys

import pytest


@pytest.fixture
def six_at_once():
    """Starts a script in six processes and lets all go on together once each has printed `ready`
    and reads a line; gives what each prints last.
    """

    def start(script: str) -> list[str]:
        ways = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen([sys.executable, "-c", script], **ways) for _ in range(6)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        return [process.communicate(timeout=120)[0].strip() for process in processes]

    return start
