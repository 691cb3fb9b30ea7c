"""Covers jobs/runtime_env.yaml: what `ray job submit` takes along."""

from __future__ import annotations

import zipfile
from pathlib import Path

import yaml
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "jobs/runtime_env.yaml").read_text())


def test_ray_takes_the_file():
    assert RuntimeEnv(**CONFIG)["env_vars"] == CONFIG["env_vars"]
    assert all(isinstance(value, str) for value in CONFIG["env_vars"].values())


def test_the_sources_travel_and_the_rest_stays(tmp_path):
    """Packed by Ray's own function."""
    for name in (
        "jobs/recipes/nano/demo.yaml",
        "engine/run.py",
        "diffmix/plan.py",
        ".git/config",
        ".venv/bin/python",
        "runs/demo/summary.json",
        "tests/test_plan.py",
        "docs/index.md",
        "engine/__pycache__/run.pyc",
        ".mypy_cache/x",
    ):
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    package = tmp_path / "package.zip"
    create_package(str(tmp_path / "clone"), package, True, excludes=CONFIG["excludes"])
    with zipfile.ZipFile(package) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert names == {"jobs/recipes/nano/demo.yaml", "engine/run.py", "diffmix/plan.py"}
