"""Covers clusters/slurm/diffmix.sbatch: read by shellcheck, and run with stand-ins for Slurm."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.placement.cluster import MIX_LABEL, TRAIN_LABEL

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "clusters/slurm/diffmix.sbatch"

# Each node of the allocation is this machine; a step is a process of its own.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = "#!/bin/bash\necho node1; echo node2\n"
DIFFMIX = """#!{python}
import json, os, signal, sys, time, ray
ray.init(log_to_driver=False)
labels = sorted(node["Labels"].get("ray-subcluster", "") for node in ray.nodes())
json.dump({{"words": sys.argv[1:], "labels": labels, "ray": os.environ["RAY_ADDRESS"],
           "token": len(os.environ["RAY_AUTH_TOKEN"])}}, open(os.environ["SEEN"], "w"))
if sys.argv[-1] == "wait":
    def told(*_):
        open(os.environ["SEEN"] + ".told", "w").close()
        sys.exit(0)
    signal.signal(signal.SIGTERM, told)
    open(os.environ["SEEN"] + ".waits", "w").close()
    time.sleep(100)
sys.exit(int(sys.argv[-1]))
"""


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_labels_are_the_engines():
    text = SCRIPT.read_text()
    for label in (TRAIN_LABEL, MIX_LABEL):
        for key, value in label.items():
            assert f"--labels={key}={value}" in text


def test_no_port_is_fixed_and_the_dashboard_stays_on_loopback():
    text = SCRIPT.read_text()
    ports = re.findall(r"--[a-z-]*port=(\S+?)[\")\s]", text)
    assert ports
    assert all(port.startswith("$") or port == "0" for port in ports), ports
    assert "--dashboard-host=127.0.0.1" in text


def test_token_is_made_for_each_job_and_never_written_to_a_file():
    text = SCRIPT.read_text()
    assert "RAY_AUTH_MODE=token" in text
    assert "secrets.token_hex" in text
    assert not [line for line in text.splitlines() if "TOKEN" in line and ">" in line]


@pytest.fixture
def allocation(tmp_path) -> dict[str, str]:
    """The environment of a batch script on two nodes, with stand-ins first on the PATH."""
    tools = tmp_path / "bin"
    tools.mkdir()
    programs = {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "diffmix": DIFFMIX.format(python=sys.executable),
    }
    for name in ("python", "ray"):
        program = Path(sys.executable).with_name(name)
        programs[name] = f'#!/bin/bash\nexec {program} "$@"\n'
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "SEEN": str(tmp_path / "seen.json"),
        "DIFFMIX_VENV": str(tmp_path),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": f"{os.getpid()}{time.monotonic_ns() % 10_000}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    return environment


def assert_nothing_is_left(allocation: dict[str, str]) -> None:
    folder = f"/tmp/ray-{allocation['SLURM_JOB_ID']}"
    assert not Path(folder).exists()
    left = subprocess.run(["pgrep", "-af", folder], capture_output=True, text=True, check=False)
    assert not left.stdout, left.stdout


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 3])
def test_a_job_on_two_nodes(allocation, code):
    """The script starts a head and a worker with a token, hands its words to `diffmix`, passes
    its exit code on and leaves no process and no folder.
    """
    result = subprocess.run(
        ["bash", SCRIPT, "run", "--seed", str(code)],
        env=allocation,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    found = json.loads(Path(allocation["SEEN"]).read_text())
    assert found["words"] == ["run", "--seed", str(code)]
    assert found["labels"] == ["gen", "train"]
    assert found["token"] == 64
    assert_nothing_is_left(allocation)


@pytest.mark.slow
def test_the_end_of_the_time_reaches_the_run_first(allocation):
    """Slurm tells the batch script; the run is told, ends by itself, and only then Ray ends."""
    with open(f"{allocation['SEEN']}.log", "w") as log:
        job = subprocess.Popen(["bash", SCRIPT, "run", "wait"], env=allocation, stdout=log)
    waits, told = (Path(f"{allocation['SEEN']}.{word}") for word in ("waits", "told"))
    for _ in range(240):
        if waits.exists():
            break
        time.sleep(0.5)
    assert waits.exists()
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 143
    assert told.exists()
    assert_nothing_is_left(allocation)
