"""Covers clusters/node: setup.sh, watch.sh and stop_when_idle.py."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from clusters.node import stop_when_idle

ROOT = Path(__file__).parents[2]
NODE = ROOT / "clusters/node"


@pytest.mark.parametrize("script", ["setup.sh", "watch.sh"])
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run(
        [shellcheck, NODE / script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


class Clock:
    """Seconds that pass only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def waited(busy_until: float, idle: float = 600) -> float:
    clock = Clock()
    stop_when_idle.wait_until_idle(
        lambda: clock.now < busy_until, idle, 60, clock=lambda: clock.now, sleep=clock.sleep
    )
    return clock.now


def test_a_machine_that_was_never_busy_waits_the_whole_time():
    assert waited(busy_until=0) == 600


def test_the_time_starts_anew_with_each_busy_look():
    assert waited(busy_until=3600) == 3540 + 600


@pytest.fixture
def dashboard(monkeypatch):
    """What the head's dashboard says; `jobs = None` is a dashboard that does not answer."""
    said = SimpleNamespace(jobs=[], workers=0)

    class Client:
        def __init__(self, address):
            if said.jobs is None:
                raise ConnectionError("refused")

        def list_jobs(self):
            return [SimpleNamespace(status=status) for status in said.jobs]

    def list_nodes(address, filters):
        return [SimpleNamespace(is_head_node=i == 0) for i in range(1 + said.workers)]

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Client)
    monkeypatch.setattr("ray.util.state.list_nodes", list_nodes)
    return said


@pytest.mark.parametrize(
    ("jobs", "workers", "busy"),
    [
        ([], 0, False),
        (["SUCCEEDED", "FAILED", "STOPPED"], 0, False),
        (["SUCCEEDED", "RUNNING"], 0, True),
        (["PENDING"], 0, True),
        ([], 1, True),
    ],
)
def test_a_head_is_busy_with_jobs_and_with_workers(dashboard, jobs, workers, busy):
    dashboard.jobs, dashboard.workers = jobs, workers
    assert stop_when_idle.head_is_busy() is busy


@pytest.mark.parametrize("job_lives", [True, False])
def test_a_silent_dashboard_does_not_end_a_running_job(dashboard, monkeypatch, job_lives):
    dashboard.jobs = None
    monkeypatch.setattr(stop_when_idle, "process_lives", lambda part: job_lives)
    assert stop_when_idle.head_is_busy() is job_lives


def test_statuses_are_rays():
    from ray.job_submission import JobStatus

    active = {status.value for status in JobStatus if not status.is_terminal()}
    assert active == stop_when_idle.ACTIVE
    assert str(JobStatus.RUNNING) in active


def test_processes_are_found_by_their_command_line():
    word = f"clusters-node-{os.getpid()}"
    command = [sys.executable, "-c", "import time; time.sleep(60)", word]
    process = subprocess.Popen(command)
    try:
        assert stop_when_idle.process_lives(word)
    finally:
        process.kill()
        process.wait()
    assert not stop_when_idle.process_lives(word)


def test_a_worker_without_a_raylet_ends_itself(tmp_path, monkeypatch):
    done = tmp_path / "done"
    words = ["--role", "worker", "--minutes", "0.001", "--pause", "0.01", "--", "touch", str(done)]
    monkeypatch.setattr(sys, "argv", ["stop_when_idle.py", *words])
    monkeypatch.setattr(stop_when_idle, "process_lives", lambda part: False)
    assert stop_when_idle.main() == 0
    assert done.exists()


def test_the_service_runs_the_program_with_the_roles_words(tmp_path):
    """watch.sh with stand-ins for sudo and systemctl."""
    tools = tmp_path / "bin"
    tools.mkdir()
    unit = tmp_path / "unit"
    sudo = f'#!/bin/bash\ncase $1 in tee) cat > {unit} ;; *) echo "$*" >> {tmp_path}/seen ;; esac\n'
    (tools / "sudo").write_text(sudo)
    (tools / "sudo").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    words = ["head", "30", "shutdown", "-h", "now"]
    subprocess.run(["bash", NODE / "watch.sh", *words], env=environment, check=True)
    text = unit.read_text()
    program = f"{NODE}/stop_when_idle.py --role head --minutes 30 -- shutdown -h now"
    assert f"ExecStart={tmp_path}/venv/bin/python {program}\n" in text
    assert f"RAY_AUTH_TOKEN_PATH={tmp_path}/.ray/auth_token" in text
    assert "systemctl restart diffmix-stop-when-idle" in (tmp_path / "seen").read_text()


@pytest.mark.slow
def test_a_real_head_with_a_token_ends_after_its_job(tmp_path):
    """The program reaches Ray's dashboard with the token, waits for a job and then ends."""
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    port, dashboard, client = (one.getsockname()[1] for one in sockets)
    for one in sockets:
        one.close()
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    environment.pop("RAY_ADDRESS", None)
    ray = Path(sys.executable).with_name("ray")
    temporary = f"/tmp/idle{os.getpid()}"
    start = [ray, "start", "--head", "--block", "--num-cpus=0", "--num-gpus=0"]
    start += [f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={temporary}"]
    start += [f"--ray-client-server-port={client}", "--dashboard-agent-listen-port=0"]
    start += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
    start += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
    address = f"http://127.0.0.1:{dashboard}"
    head = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL)
    done = tmp_path / "done"
    try:
        command = [ray, "job", "submit", "--address", address, "--no-wait", "--", "sleep", "25"]
        for _ in range(30):
            submitted = subprocess.run(command, env=environment, capture_output=True, check=False)
            if submitted.returncode == 0:
                break
            time.sleep(2)
        began = time.monotonic()
        words = ["--role", "head", "--minutes", "0.1", "--pause", "1", "--dashboard", address]
        subprocess.run(
            [sys.executable, NODE / "stop_when_idle.py", *words, "--", "touch", done],
            env=environment,
            check=True,
            timeout=120,
        )
        assert done.exists()
        assert time.monotonic() - began > 20  # the job's time, less what submitting took
    finally:
        head.terminate()
        head.wait(30)
        shutil.rmtree(temporary, ignore_errors=True)
