"""`python stop_when_idle.py --role head --minutes 30 -- sudo shutdown -h now`: run a command once
Ray on this machine has been idle for that long.

A head is busy while a job runs or a worker node is alive. A head whose dashboard does not answer is
busy while a process of a submitted job lives, so that a crashed dashboard does not end a run. A
worker is busy while its raylet lives; a raylet ends a minute after its head does, and the launcher
that would have ended the machine is gone by then.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

DASHBOARD = "http://127.0.0.1:8265"
ACTIVE = {"PENDING", "RUNNING"}


def head_is_busy(dashboard: str = DASHBOARD) -> bool:
    """Whether a job runs or a worker node is alive."""
    from ray.job_submission import JobSubmissionClient
    from ray.util.state import list_nodes

    try:
        jobs = JobSubmissionClient(dashboard).list_jobs()
        nodes = list_nodes(address=dashboard, filters=[("state", "=", "ALIVE")])
    except Exception as error:
        print(f"The dashboard does not answer: {error}", flush=True)
        return process_lives("ray::JobSupervisor")
    if any(str(job.status) in ACTIVE for job in jobs):
        return True
    return any(not node.is_head_node for node in nodes)


def worker_is_busy() -> bool:
    """Whether this machine's raylet lives."""
    return process_lives("raylet/raylet")


def process_lives(part: str) -> bool:
    """Whether the command line of a process on this machine has `part` in it."""
    for process in psutil.process_iter(["cmdline"]):
        if part in " ".join(process.info["cmdline"] or []):
            return True
    return False


def wait_until_idle(
    busy: Callable[[], bool],
    idle_seconds: float,
    pause: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once `busy` has been false at every look for `idle_seconds`, `pause` seconds apart.

    The time counts from the start, so a machine on which Ray never started is idle too.
    """
    last_busy = clock()
    while clock() - last_busy < idle_seconds:
        if busy():
            last_busy = clock()
        sleep(pause)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=["head", "worker"], required=True)
    parser.add_argument("--minutes", type=float, required=True, help="idle time before the command")
    parser.add_argument("--pause", type=float, default=60, help="seconds between two looks")
    parser.add_argument("--dashboard", default=DASHBOARD)
    parser.add_argument("command", nargs="+", help="what to run then, after --")
    options = parser.parse_args()

    def busy() -> bool:
        if options.role == "head":
            return head_is_busy(options.dashboard)
        return worker_is_busy()

    wait_until_idle(busy, options.minutes * 60, options.pause)
    print(f"Idle for {options.minutes:g} minutes: {' '.join(options.command)}", flush=True)
    return subprocess.run(options.command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
