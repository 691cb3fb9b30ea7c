"""A run that starts Ray on this machine: nobody in the network reaches its ports, and no key of the
environment is in its logs or in what the run writes.
"""

import os
from pathlib import Path

import psutil
import pytest
import yaml

from engine.placement.cluster import LOOPBACK, connect
from engine.run import run

ROOT = Path(__file__).parents[2]
KEYS = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS")
SECRET = "a-secret-that-is-nowhere"


@pytest.fixture
def keys(own_clusters, monkeypatch):
    for name in KEYS:
        monkeypatch.setenv(name, f"{SECRET}-{name}")


def listening() -> dict[str, str]:
    """Addresses at which this process and its children wait for others, and whose they are."""
    me = psutil.Process()
    found = {}
    for process in [me, *me.children(recursive=True)]:
        try:
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found[f"{socket.laddr.ip}:{socket.laddr.port}"] = process.name()
        except psutil.Error:  # it has ended
            continue
    return found


def test_jobs_carry_no_key():
    """Ray keeps a job's runtime environment where everybody on the cluster can read it."""
    carried = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())
    assert set(carried["env_vars"]) == {"PYTHONUNBUFFERED", "TOKENIZERS_PARALLELISM"}


@pytest.mark.slow
def test_ports_are_on_loopback_and_keys_are_nowhere(keys, tmp_path, small_config, capfd):
    import ray

    before = listening()
    config = small_config(tmp_path / "out", **{"placement.trainers": 2})
    connect(config)
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    summary = run(config)
    assert summary["plan"]["stored"] == 40
    assert summary["trainer"]["workers"] == 2, "workers find one another"
    ports = {address: name for address, name in listening().items() if address not in before}
    assert len(ports) > 5
    own = (f"{LOOPBACK}:", f"::ffff:{LOOPBACK}:", "::1:")
    outside = {at: name for at, name in ports.items() if not at.startswith(own)}
    assert outside == {}
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    files = [file for top in (tmp_path, logs) for file in top.rglob("*") if file.is_file()]
    assert any("raylet" in file.name for file in files)
    assert any(file.name == "config.yaml" for file in files)
    assert os.environ["HF_TOKEN"].startswith(SECRET)
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
