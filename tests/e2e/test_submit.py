"""The real `ray job submit` client against the cluster that `clusters.local.start` starts."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from diffmix.config import to_dict

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def dashboard():
    """Address of a cluster of two local nodes that the project's commands start and stop."""
    # Ray's sockets are below it, and their paths may have 107 bytes.
    folder = tempfile.mkdtemp(prefix="dm")
    environment = {**os.environ, "TMPDIR": folder}
    ports = ["--port", str(free_port()), "--dashboard_port", str(free_port())]
    command = [sys.executable, "-m", "clusters.local.start", "--nodes", "2", "--gpus", "1", *ports]
    started = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stdout + started.stderr
    yield f"http://127.0.0.1:{ports[3]}"
    stopped = subprocess.run(
        [sys.executable, "-m", "clusters.local.stop"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    shutil.rmtree(folder, ignore_errors=True)


def submit(dashboard: str, *arguments: str) -> subprocess.CompletedProcess:
    ray = str(Path(sys.executable).with_name("ray"))
    command = [
        ray,
        "job",
        "submit",
        "--address",
        dashboard,
        "--working-dir",
        ".",
        "--",
        sys.executable,
        "-m",
        "jobs.run",
        *arguments,
    ]
    end = time.monotonic() + 60
    while True:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
        )
        # A cluster takes jobs some seconds after `ray start` has ended.
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > end:
            return done


def test_good_job_makes_a_run_folder_and_bad_jobs_say_why(dashboard, tmp_path, small_config):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(to_dict(small_config("", **{"mix.count": 8, "train.epochs": 1})))
    )

    good = submit(dashboard, "--config", str(recipe), "--out", str(tmp_path / "out"))
    assert good.returncode == 0, good.stdout + good.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["plan"]["stored"] == 8
    for name in ("config.yaml", "metrics.jsonl", "classifier/model.safetensors", "mixes/plan.json"):
        assert (tmp_path / "out" / name).exists()

    bad = submit(
        dashboard, "--config", str(recipe), "--out", str(tmp_path / "bad"), "--mix.strength", "1.5"
    )
    assert bad.returncode != 0
    assert (
        "diffmix: --mix.strength is 1.5, "
        "but it must be one or more numbers above 0 and at most 1." in bad.stdout + bad.stderr
    )

    relative = submit(dashboard, "--config", str(recipe), "--out", "runs/lost")
    assert relative.returncode != 0
    assert "give an absolute path or a URI" in relative.stdout + relative.stderr
