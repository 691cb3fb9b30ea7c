"""The real `ray job submit` client against the cluster that `clusters.local.start` starts, whose
workers start in the usual way and are no forks.

Covers `jobs/run.py` too.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from diffmix.config import to_dict

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def dashboard(own_clusters):
    """Address of a cluster of two local nodes that the project's commands start and stop. The
    shared cluster must not run: its agent has the port that this one's needs to take jobs.
    """
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


def submit(dashboard: str, *arguments: str) -> subprocess.Popen:
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "job", "submit", "--address", dashboard, "--working-dir", "."]
    return subprocess.Popen(
        [*command, "--", sys.executable, "-m", "jobs.run", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_good_job_makes_a_run_folder_and_bad_jobs_say_why(dashboard, tmp_path, small_config):
    """All three at the same time."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(to_dict(small_config("", **{"mix.count": 8, "train.epochs": 1})))
    )
    config, out = ("--config", str(recipe), "--out"), tmp_path / "out"
    good = submit(dashboard, *config, str(out))
    bad = submit(dashboard, *config, str(tmp_path / "bad"), "--mix.strength", "1.5")
    relative = submit(dashboard, *config, "runs/lost")

    for job, sentence in (
        (
            bad,
            "diffmix: --mix.strength is 1.5, "
            "but it must be one or more numbers above 0 and at most 1.",
        ),
        (relative, "give an absolute path or a URI"),
    ):
        output, _ = job.communicate(timeout=600)
        assert job.returncode != 0
        assert sentence in output

    output, _ = good.communicate(timeout=600)
    assert good.returncode == 0, output
    assert json.loads((out / "summary.json").read_text())["plan"]["stored"] == 8
    for name in ("config.yaml", "metrics.jsonl", "classifier/model.safetensors", "mixes/plan.json"):
        assert (out / name).exists()
