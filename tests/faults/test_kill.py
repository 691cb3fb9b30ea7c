"""The driver is killed at several moments, and once interrupted by Ctrl-C. The same command then
finishes the job and makes no stored mix again.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffmix.config import to_dict
from diffmix.storage import Folder
from engine.telemetry import read_events

DEADLINE = 300.0


pytestmark = pytest.mark.usefixtures("own_clusters")


@pytest.fixture
def start(ray_python):
    """`start(recipe)` starts `diffmix run` in another process, whose workers are forks."""
    code = (
        "import sys; from jobs.cli import main; "
        f"sys.executable = {ray_python.path!r}; sys.exit(main())"
    )

    def run(recipe: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", code, "run", "--config", str(recipe)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
            # Tests in the background of a shell ignore Ctrl-C, and so would their children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


def wait_until(process: subprocess.Popen, happened) -> None:
    """Return when `happened()`. The driver must still run then."""
    import time

    end = time.monotonic() + DEADLINE
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the moment to kill the driver never came"
        process_wait(0.05)


def process_wait(seconds: float) -> None:
    """Polling another process's files has no event to wait for."""
    import select

    select.select([], [], [], seconds)


def parts(out: Path) -> dict[str, int]:
    """Inode of each stored part. A part that is written again gets another inode."""
    return {file.name: file.stat().st_ino for file in (out / "mixes").glob("part-*.parquet")}


def test_killed_while_personalizing_mixing_and_training(tmp_path, small_config, start):
    out = tmp_path / "out"
    config = small_config(
        out,
        **{
            "mix.strategy": "diff-mix",
            "personalize.steps": 30,
            "mix.count": 120,
            "train.epochs": 12,
            "run.train_after": 0.1,
        },
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    checkpoints = out / "checkpoints"

    moments = {
        "personalizing": (
            signal.SIGKILL,
            lambda: any(checkpoints.glob("personalize-*/checkpoint_*/*")),
        ),
        "mixing": (signal.SIGKILL, lambda: len(parts(out)) >= 5),
        # An event of this attempt. A part may still come from the mixers of the killed attempt, and
        # Python has to be running to be interrupted.
        "mixing more": (
            signal.SIGINT,
            lambda: any(event["event"] == "mix" for event in read_events(Folder(str(out)))[had:]),
        ),
        "training": (
            signal.SIGKILL,
            lambda: any(checkpoints.glob("classifier-*/checkpoint_*/epoch.json")),
        ),
    }
    kept: dict[str, int] = {}
    for name, (ending, happened) in moments.items():
        had = len(read_events(Folder(str(out))))
        process = start(recipe)
        wait_until(process, happened)
        process.send_signal(ending)
        if ending == signal.SIGKILL:
            process.wait()  # its workers may hold its output open for a while
        else:
            output, _ = process.communicate(timeout=DEADLINE)
            assert process.returncode == 130
            assert (
                output.splitlines()[-1]
                == "diffmix: interrupted; the same command resumes from here."
            )
        for part, inode in kept.items():
            assert parts(out)[part] == inode, f"{part} was made again after the kill while {name}"
        kept = parts(out)

    process = start(recipe)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    assert all(parts(out)[part] == inode for part, inode in kept.items())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["plan"] == {"planned": 120, "stored": 120, "rejected": 0, "set_aside": 0}
    # Not the events: orphaned workers checkpoint for a moment longer, with nobody to write events.
    states = checkpoints.glob("classifier-*/checkpoint_*/epoch.json")
    assert max(json.loads(state.read_text())["epoch"] for state in states) == 12


@pytest.mark.slow
def test_stopped_as_by_ray_job_stop_and_by_the_loss_of_the_head(tmp_path, small_config, start):
    """SIGTERM to the driver, which is what `ray job stop` sends, and SIGKILL of the GCS. The same
    command then works in a new cluster, and takes the dead driver's lease over.
    """
    import psutil

    out = tmp_path / "out"
    config = small_config(out, **{"mix.count": 160, "train.epochs": 6, "run.mode": "staged"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)))

    process = start(recipe)
    wait_until(process, lambda: len(parts(out)) >= 5)
    process.terminate()
    process.wait(timeout=DEADLINE)
    kept = parts(out)
    assert (out / "lease-000001.json").exists()

    process = start(recipe)
    wait_until(process, lambda: len(parts(out)) >= len(kept) + 5)
    assert [file.name for file in out.glob("lease-*")] == ["lease-000002.json"]
    servers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "gcs_server" in child.name()
    ]
    assert len(servers) == 1
    servers[0].kill()
    try:
        process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.returncode != 0
    assert all(parts(out)[part] == inode for part, inode in kept.items())
    kept = parts(out)

    process = start(recipe)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    assert all(parts(out)[part] == inode for part, inode in kept.items())
    assert list(out.glob("lease-*")) == []
    summary = json.loads((out / "summary.json").read_text())
    assert summary["plan"] == {"planned": 160, "stored": 160, "rejected": 0, "set_aside": 0}
