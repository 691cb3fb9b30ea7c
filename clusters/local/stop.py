"""`python -m clusters.local.stop`: end the raylets that `clusters.local.start` started, and nothing
else.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import psutil

STATE = Path(tempfile.gettempdir()) / "diffmix-local-cluster.json"
"""Where `clusters.local.start` notes the process ids of what it started."""


def stop() -> int:
    """End the noted processes and everything that they started. Gives how many; 0 where none is
    noted.
    """
    if not STATE.exists():
        return 0
    processes: dict[int, psutil.Process] = {}
    for pid in json.loads(STATE.read_text())["pids"]:
        try:
            process = psutil.Process(pid)
            for one in [process, *process.children(recursive=True)]:
                processes[one.pid] = one
        except psutil.NoSuchProcess:
            continue
    for process in processes.values():
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(list(processes.values()), timeout=10)
    for process in alive:
        process.kill()
    STATE.unlink()
    return len(processes)


if __name__ == "__main__":
    print(f"Ended {stop()} processes." if STATE.exists() else "No local cluster is noted.")
