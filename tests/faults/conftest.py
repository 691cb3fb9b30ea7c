"""A cluster of several nodes on this machine, faults, and records of what they cost."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffmix.storage import Folder
from engine.telemetry import read_events

WORK = ("mix", "train")
"""Events that say that work went on."""


@dataclass(frozen=True)
class Nodes:
    """A head for training and two nodes for mixers, of 1 logical GPU each."""

    cluster: object
    mixers: list

    def kill_mixing_node(self) -> None:
        """Kill one. `add_mixing_node` gives the next test a new one, from the main thread: Ray sets
        signal handlers for a node.
        """
        self.cluster.remove_node(self.mixers.pop(), allow_graceful=False)

    def end(self, node: str) -> None:
        """Kill a mixing node by its id."""
        (found,) = [mixer for mixer in self.mixers if mixer.node_id == node]
        self.mixers.remove(found)
        self.cluster.remove_node(found, allow_graceful=False)

    def add_mixing_node(self) -> None:
        self.mixers.append(self.cluster.add_node(labels={"ray-subcluster": "gen"}, **NODE))


@pytest.fixture(scope="session")
def drain():
    """`drain(cluster, node, seconds)` gives the notice that a node, by its id, goes away in so many
    seconds, as a cloud's notice does through Ray's autoscaler or KubeRay.
    """

    def give(cluster, node: str, seconds: int) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        to = ["--address", cluster.address, "--node-id", node]
        until = ["--deadline-remaining-seconds", str(seconds)]
        done = subprocess.run(
            [*command, *to, *reason, *until], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    return give


NODE = {"num_gpus": 1, "num_cpus": 4, "object_store_memory": 200_000_000}


@pytest.fixture(scope="module")
def nodes(own_clusters):
    import ray
    from ray.cluster_utils import Cluster

    with own_clusters():
        cluster = Cluster()
        cluster.add_node(labels={"ray-subcluster": "train"}, include_dashboard=False, **NODE)
        found = Nodes(cluster, [])
        found.add_mixing_node()
        found.add_mixing_node()
        ray.init(address=cluster.address, namespace="diffmix", log_to_driver=False)
        cluster.wait_for_nodes()
        yield found
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def when():
    """`when(happened, act)` calls `act` once, in a thread, when `happened()`. It gives the fault,
    whose `moment` is the time of that.
    """
    faults = []

    def start(happened: Callable[[], bool], act: Callable[[], object]) -> "Fault":
        fault = Fault(happened, act)
        faults.append(fault)
        fault.thread.start()
        return fault

    yield start
    for fault in faults:
        fault.stop()


class Fault:
    def __init__(self, happened: Callable[[], bool], act: Callable[[], object]):
        self.happened, self.act = happened, act
        self.moment: float | None = None
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.happened():
            if self._over.wait(0.05):  # files and clusters send no event
                return
        self.moment = time.time()
        self.act()

    def stop(self) -> None:
        self._over.set()
        self.thread.join()


@pytest.fixture(scope="session")
def events() -> Callable[[Path], list[dict]]:
    """`events(out)`: what a run folder's `metrics.jsonl` holds."""
    return lambda out: read_events(Folder(str(out)))


@pytest.fixture(scope="session")
def parts() -> Callable[[Path], dict[str, bytes]]:
    """`parts(out)`: the bytes of each stored part."""

    def read(out: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted((out / "mixes").glob("part-*"))}

    return read


@pytest.fixture
def record(request, events, tmp_path_factory):
    """`record(fault, out, moment)` keeps what a fault has cost a run that is done by now: mixes
    that are neither stored nor counted, chunks that were made again, and the seconds until the
    first work that began after it. `tests/faults/table.py` makes the table of `docs/guarantees.md`
    of what the file `$DIFFMIX_FAULT_RECORDS` has collected.
    """

    def keep(fault: str, out: Path, moment: float | None, **more: object) -> dict:
        assert moment is not None, "the fault did not happen"
        summary = json.loads((out / "summary.json").read_text())["plan"]
        counted = summary["stored"] + summary["rejected"] + summary["set_aside"]
        happened = events(out)
        made = Counter(event["chunk"] for event in happened if event["event"] == "mix")
        after = [
            event["end"] for event in happened if event["event"] in WORK and event["start"] > moment
        ]
        found = {
            "fault": fault,
            "test": request.node.nodeid.partition("[")[0],
            "lost": summary["planned"] - counted,
            "repeated": sum(count - 1 for count in made.values()),
            "seconds": round(min(after) - moment, 1) if after else None,
            **more,
        }
        usual = tmp_path_factory.getbasetemp() / "fault_records.jsonl"
        with open(os.environ.get("DIFFMIX_FAULT_RECORDS", usual), "a") as file:
            file.write(json.dumps(found) + "\n")
        return found

    return keep


@pytest.fixture
def untrained():
    """Copies a run folder without its training and its events; gives the copy."""

    def copy(whole: Path, out: Path) -> Path:
        shutil.copytree(whole, out)
        for name in ("classifier", "checkpoints"):
            shutil.rmtree(out / name)
        (out / "metrics.jsonl").unlink()
        return out

    return copy
