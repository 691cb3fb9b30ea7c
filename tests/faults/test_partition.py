"""The network between two groups of nodes is cut: the nodes with the driver go on without the
others, and the others, once they are let in again, end.

The other group is a node in a network namespace of its own, which takes root and iproute2.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from engine.run import run_mixing

pytestmark = pytest.mark.slow

DEVICE, SPACE = f"dmx{os.getpid()}", f"diffmix-{os.getpid()}"
HERE, THERE = "10.213.77.1", "10.213.77.2"
MIXES = 1600  # one mixer is still at work when the other one's process has started
NODE = {"num_gpus": 1, "num_cpus": 4, "object_store_memory": 200_000_000}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def link():
    """A cable to another network namespace. Gives a function that unplugs it."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and iproute2")
    try:
        ip("netns", "add", SPACE)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", DEVICE, "type", "veth", "peer", "name", "eth0", "netns", SPACE)
        ip("addr", "add", f"{HERE}/24", "dev", DEVICE)
        ip("link", "set", DEVICE, "up")
        for command in (
            ("addr", "add", f"{THERE}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-n", SPACE, *command)
        yield lambda: ip("link", "set", DEVICE, "down")
    finally:
        ip("netns", "del", SPACE)  # and with it both ends of the cable


@dataclass(frozen=True)
class Far:
    """The node in the other namespace."""

    process: subprocess.Popen
    node_id: str


@contextmanager
def node_in_the_other_namespace(address: str):
    """`ray start` there."""
    command = [
        *("ip", "netns", "exec", SPACE, sys.executable, "-m", "ray.scripts.scripts", "start"),
        *("--block", f"--address={address}", f"--node-ip-address={THERE}", "--num-gpus=1"),
        *("--num-cpus=4", "--labels=ray-subcluster=gen", "--object-store-memory=200000000"),
        "--disable-usage-stats",
    ]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        for pid in subprocess.check_output(["ip", "netns", "pids", SPACE], text=True).split():
            os.kill(int(pid), signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def two_groups(own_clusters, link):
    """A head for training and a mixing node here, and a mixing node there."""
    import ray
    from ray.cluster_utils import Cluster

    common = {"node_ip_address": HERE, **NODE}
    with own_clusters():
        cluster = Cluster()
        cluster.add_node(labels={"ray-subcluster": "train"}, include_dashboard=False, **common)
        cluster.add_node(labels={"ray-subcluster": "gen"}, **common)
    with node_in_the_other_namespace(cluster.address) as far:
        with own_clusters():
            ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
            while not (found := [n for n in ray.nodes() if n["NodeManagerAddress"] == THERE]):
                far.poll()
                assert far.returncode is None, "the other node did not start"
            yield Far(far, found[0]["NodeID"])
        ray.shutdown()
        cluster.shutdown()


def test_the_drivers_side_goes_on_and_every_mix_is_made_once(
    two_groups, link, tmp_path, small_config, when, record, events, parts
):
    import ray

    changes = {"placement.separate": True, "placement.mixers": (2,), "mix.count": MIXES}
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_mixing(small_config(whole, **changes))
    kept: dict[str, int] = {}

    def unplug() -> None:
        link()
        # A part that is written again gets another inode.
        kept.update({file.name: file.stat().st_ino for file in (out / "mixes").glob("part-*")})

    def a_mixer_there_has_stored() -> bool:
        happened = events(out)
        ready = [event for event in happened if event["event"] == "mixer_ready"]
        there = {event["actor"] for event in ready if event["node"] == two_groups.node_id}
        return any(event["event"] == "mix" and event["actor"] in there for event in happened)

    cut = when(a_mixer_there_has_stored, unplug)
    summary = run_mixing(small_config(out, **changes))
    cut.thread.join()
    assert cut.moment is not None, "the network was never cut"
    alive = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
    assert not alive[two_groups.node_id]
    assert all((out / "mixes" / name).stat().st_ino == inode for name, inode in kept.items()), (
        "a stored part was made again"
    )
    assert summary["plan"] == {"planned": MIXES, "stored": MIXES, "rejected": 0, "set_aside": 0}
    assert parts(out) == parts(whole)
    assert record("the network between two groups of nodes is cut", out, cut.moment)["lost"] == 0
