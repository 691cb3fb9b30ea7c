"""A short run of each target of `guided.py`. atheris is no part of the project's environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris")

RUNS = os.environ.get("FUZZ_RUNS", "2000")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["images", "weights"])
def test_no_input_is_a_surprise(target, tmp_path):
    script = Path(__file__).with_name("guided.py")
    done = subprocess.run(
        [sys.executable, str(script), target, f"-atheris_runs={RUNS}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Done {RUNS} in" in done.stdout + done.stderr
