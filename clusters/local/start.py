"""`python -m clusters.local.start --nodes 2 --gpus 1`: several raylets on this machine, with
logical GPUs.

The first node is the head, with the dashboard that `ray job submit` talks to. Each further node may
carry the label that keeps mixers and train workers apart. `python -m clusters.local.stop` ends
exactly these processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tyro

from clusters.local.stop import STATE, stop

_RAY = str(Path(sys.executable).with_name("ray"))
_RAY_COMMANDS = (
    "gcs_server",
    "raylet/raylet",
    "ray/dashboard",
    "ray/_private",
    "ray/autoscaler",
    "ray::",
)
"""Parts of the command lines of Ray's daemons and workers."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A cluster of several nodes on one machine, for trying things out."""

    nodes: int = 2
    """Raylets to start, the head included."""
    gpus: int = 1
    """Logical GPUs of each node."""
    cpus: int = 4
    """Logical CPUs of each node."""
    labels: tuple[str, ...] = ()
    """Value of the label ray-subcluster for each node, such as `train gen`; empty leaves nodes
    without one.
    """
    port: int = 6379
    """Port of the head node."""
    dashboard_port: int = 8265
    """Port that `ray job submit --address http://127.0.0.1:PORT` talks to."""
    object_store_mb: int = 300
    """Object store of each node, in MB."""


def start(options: Options) -> dict:
    """Start the nodes and note their process ids in `STATE`. Gives `address` and `dashboard`.
    Raises `SystemExit` on failure.
    """
    noted = Noted()
    environment = with_token()
    for node in range(options.nodes):
        noted.run(f"Node {node}", _start_command(options, node), env=environment)
    return {
        "address": f"127.0.0.1:{options.port}",
        "dashboard": f"http://127.0.0.1:{options.dashboard_port}",
    }


def with_token() -> dict[str, str]:
    """This process's environment, in which Ray asks for a token: its ports can be reached from the
    network. The token is the user's own in `~/.ray`, and is made where there is none.
    `RAY_AUTH_MODE` says otherwise where it is set.
    """
    environment = {"RAY_AUTH_MODE": "token", **os.environ}
    if environment["RAY_AUTH_MODE"] == "token":
        subprocess.run([_RAY, "get-auth-token", "--generate"], capture_output=True, check=True)
    return environment


class Noted:
    """Runs commands that start Ray's daemons, and notes in `STATE` the processes that are new since
    it was made. Raises `SystemExit` where a cluster is noted already.
    """

    def __init__(self) -> None:
        if STATE.exists():
            raise SystemExit(
                f"A local cluster is noted in {STATE} already; end it with "
                "`python -m clusters.local.stop`."
            )
        self._before = _ray_processes()

    def run(self, what: str, command: list[str], **options: Any) -> None:
        """Run a command; `options` are those of `subprocess.run`. Where it fails, everything ends
        and `SystemExit` says that `what` did not start.
        """
        result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        STATE.write_text(json.dumps({"pids": sorted(_ray_processes() - self._before)}))
        if result.returncode:
            sys.stderr.write(result.stdout + result.stderr)
            stop()
            raise SystemExit(f"{what} did not start; Ray's own words are above.")


def _start_command(options: Options, node: int) -> list[str]:
    """What starts a node; number 0 is the head."""
    command = [_RAY, "start"]
    if node == 0:
        command += [
            "--head",
            f"--port={options.port}",
            f"--dashboard-port={options.dashboard_port}",
            "--include-dashboard=true",
        ]
    else:
        command.append(f"--address=127.0.0.1:{options.port}")
    if node < len(options.labels):
        command.append(f"--labels=ray-subcluster={options.labels[node]}")
    return [
        *command,
        f"--num-gpus={options.gpus}",
        f"--num-cpus={options.cpus}",
        f"--object-store-memory={options.object_store_mb * 1_000_000}",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
    ]


def _ray_processes() -> set[int]:
    """Process ids of Ray's daemons on this machine."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if any(part in command for part in _RAY_COMMANDS):
            found.add(process.info["pid"])
    return found - {os.getpid()}


if __name__ == "__main__":
    started = start(tyro.cli(Options, description=__doc__))
    print(
        f"Ray runs at {started['address']}; submit jobs to {started['dashboard']}, with "
        "RAY_AUTH_MODE=token in the environment."
    )
