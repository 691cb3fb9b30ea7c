"""`python -m clusters.local.autoscale --train 1 --gen 3`: a cluster on this machine that grows and
shrinks as one in a cloud does.

Its head has no CPUs for work. Train nodes and mixing nodes are raylets with logical GPUs, which
Ray's autoscaler starts when a job asks for them and ends when they are idle. `python -m
clusters.local.stop` ends everything.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ray._private.services as services
import tyro
import yaml

from clusters.local.fake_nodes import LOG, NO_CAPACITY
from clusters.local.start import Noted, with_token

ROOT = Path(__file__).parents[2]
_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # Ray's provider knows it
_HEAD_TYPE = "ray.head.default"  # and that name too

_EMPTY_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """An autoscaling cluster on one machine, for trying things out."""

    train: int = 1
    """The most train nodes, labeled ray-subcluster=train."""
    gen: int = 3
    """The most mixing nodes, labeled ray-subcluster=gen."""
    gpus: int = 1
    """Logical GPUs of each node but the head, which has none."""
    cpus: int = 4
    """Logical CPUs of each node but the head, which has none."""
    idle_minutes: float = 0.5
    """A node that had no work for so long is ended."""
    port: int = 6379
    """Port of the head node."""
    dashboard_port: int = 8265
    """Port that `ray job submit --address http://127.0.0.1:PORT` talks to."""
    object_store_mb: int = 150
    """Object store of each node, in MB."""


def start(options: Options) -> dict[str, str]:
    """Start the head and its autoscaler, and note their process ids in `STATE`.

    Gives `address`, `dashboard`, and the files `no_capacity` and `log` of `fake_nodes`. Raises
    `SystemExit` on failure.
    """
    noted = Noted()
    folder = Path(tempfile.mkdtemp(prefix="dm"))
    address = f"{services.get_node_ip_address()}:{options.port}"
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(cluster_file(options, address)))
    files = {"no_capacity": str(folder / "no_capacity"), "log": str(folder / "provider.log")}
    noted.run("The head", _start_command(options, file), env=_environment(files), cwd=ROOT)
    dashboard = f"http://127.0.0.1:{options.dashboard_port}"
    return {"address": address, "dashboard": dashboard, **files}


def cluster_file(options: Options, address: str) -> dict:
    """The cluster's file, as `ray up` and the autoscaler read it."""
    node = {
        "CPU": options.cpus,
        "GPU": options.gpus,
        "object_store_memory": options.object_store_mb * 1_000_000,
    }
    groups = {}
    for label, most in (("train", options.train), ("gen", options.gen)):
        groups[label] = {
            "resources": node,
            "labels": {"ray-subcluster": label},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
    return {
        "cluster_name": "local",
        "max_workers": options.train + options.gen,
        "upscaling_speed": 10,
        "idle_timeout_minutes": options.idle_minutes,
        "provider": {
            "type": "external",
            "module": "clusters.local.fake_nodes.FakeNodes",
            "launch_multiple": True,
            "gcs_address": address,
            "head_node_id": _HEAD_ID,
        },
        "head_node_type": _HEAD_TYPE,
        "available_node_types": {
            _HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **groups,
        },
        # A provider of one's own gets none of Ray's defaults.
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in _EMPTY_LISTS},
        "file_mounts_sync_continuously": False,
    }


def _start_command(options: Options, file: Path) -> list[str]:
    return [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        f"--port={options.port}",
        "--num-cpus=0",
        "--num-gpus=0",
        f"--object-store-memory={options.object_store_mb * 1_000_000}",
        "--include-dashboard=true",
        f"--dashboard-port={options.dashboard_port}",
        f"--autoscaling-config={file}",
        f"--temp-dir={file.parent / 'ray'}",
        "--disable-usage-stats",
    ]


def _environment(files: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        **with_token(),
        "PYTHONPATH": path,
        NO_CAPACITY: files["no_capacity"],
        LOG: files["log"],
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",  # the older one ignores labels
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
        "RAY_prestart_worker_first_driver": "0",
    }


if __name__ == "__main__":
    started = start(tyro.cli(Options, description=__doc__))
    print(
        f"Ray runs at {started['address']}; submit jobs to {started['dashboard']}, with "
        "RAY_AUTH_MODE=token in the environment."
    )
    print(f"Groups named in {started['no_capacity']} have no capacity; {started['log']} has what")
    print("was asked of the cloud.")
