"""The built wheel has all that it needs, and works from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_works_from_any_folder(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    for name in (
        "clusters/grafana/diffmix.json",
        "clusters/aws/cluster.yaml",
        "clusters/kuberay/base/kustomization.yaml",
        "clusters/slurm/diffmix.sbatch",
        "diffmix/report/report.js",
        "jobs/recipes/nano/demo.yaml",
        "jobs/runtime_env.yaml",
    ):
        assert name in names or not (ROOT / name).exists(), name
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    recipe = tmp_path / "installed" / "jobs" / "recipes" / "nano" / "demo.yaml"
    program = "import jobs.cli, sys; print(jobs.cli.__file__); sys.exit(jobs.cli.main())"
    plan = [sys.executable, "-c", program, "plan", "--config", recipe, "--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(plan, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))
    assert "mixes planned" in done.stdout
