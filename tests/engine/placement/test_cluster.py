"""What workers of a connected job import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from engine.placement import cluster as placement_cluster

ROOT = Path(__file__).parents[3]

ASK_A_WORKER = """
import json, sys
import ray
from diffmix.config import Config, RunConfig
from engine.placement.cluster import connect

connect(Config(run=RunConfig(address=sys.argv[1])))

@ray.remote(num_cpus=0)
def found():
    import datasets, engine.phases, jobs.cli
    return [datasets.__file__, engine.__file__, jobs.__file__, *sys.path]

print(json.dumps(ray.get(found.remote())))
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A user's folder with modules that are named as ours or as a library that we use."""
    for name in ("engine.py", "jobs.py", "datasets/__init__.py", "models/__init__.py"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text("raise ImportError('the module of the user')\n")
    return tmp_path / "project"


@pytest.mark.usefixtures("cluster")
def test_a_users_own_modules_in_the_current_folder_hide_none_of_ours(tmp_path, project):
    """As with the console script, the driver does not look for modules in the current folder."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ask").write_text(ASK_A_WORKER)
    address = ray.get_runtime_context().gcs_address
    result = subprocess.run(
        [sys.executable, str(tmp_path / "bin" / "ask"), address],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert str(project) not in result.stdout
    files = json.loads(result.stdout)
    assert len(files) > 3
    assert files[1].endswith("engine/__init__.py")


def test_workers_look_in_the_current_folder_only_where_the_driver_does(project, monkeypatch):
    """`python -m jobs.run` in a checkout looks there, the console script does not."""
    monkeypatch.chdir(project)
    assert placement_cluster._job_config()._client_job
    for folder in ("", str(project)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [folder, *sys.path])
            assert not placement_cluster._job_config()._client_job
