"""Runs that several tests ask questions of, and how to read their folders."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def staged(tmp_path_factory, start_cluster, small_config) -> Path:
    """The folder of a finished staged run of `small_config`. Read only: see `copy_of_staged`."""
    from engine.run import run

    start_cluster()
    out = tmp_path_factory.mktemp("staged") / "out"
    run(small_config(out, **{"run.mode": "staged"}))
    return out


@pytest.fixture
def copy_of_staged(tmp_path, staged) -> Path:
    """A copy of `staged` that a test may change."""
    return Path(shutil.copytree(staged, tmp_path / "out"))


@pytest.fixture(scope="session")
def events() -> Callable[[Path, str], list[dict]]:
    """`events(out, kind)`: a run folder's events of one kind, in the order of `metrics.jsonl`."""

    def read(out: Path, kind: str) -> list[dict]:
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    return read


@pytest.fixture(scope="session")
def parts() -> Callable[[Path], dict[str, bytes]]:
    """`parts(out)`: the bytes of each part of a run folder's mix store, by name."""

    def read(out: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted((out / "mixes").glob("part-*"))}

    return read


@pytest.fixture(scope="session")
def local_cluster() -> Callable:
    """`with local_cluster(module, *options) as (dashboard, folder):` a cluster that a module of
    `clusters.local` starts. Gives the address that takes jobs, and the folder that has its files.
    """

    @contextlib.contextmanager
    def run(module: str, *options: str):
        folder = tempfile.mkdtemp(prefix="dm")  # Ray's sockets are below it: 107 bytes
        environment = {**os.environ, "TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        ports = ["--port", str(_free_port()), "--dashboard_port", str(_free_port())]
        _python(environment, module, *options, *ports)
        yield f"http://127.0.0.1:{ports[3]}", Path(folder)
        _python(environment, "clusters.local.stop")
        shutil.rmtree(folder, ignore_errors=True)

    return run


@pytest.fixture(scope="session")
def submit() -> Callable[..., subprocess.Popen]:
    """`submit(dashboard, *arguments)`: `ray job submit` of a `diffmix run`, as a process."""

    def run(dashboard: str, *arguments: str) -> subprocess.Popen:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "job", "submit", "--address", dashboard, "--working-dir", "."]
        return subprocess.Popen(
            [*command, "--", sys.executable, "-m", "jobs.run", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _python(environment: dict[str, str], module: str, *options: str) -> None:
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
