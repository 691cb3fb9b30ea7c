"""Ray Data's pool of actors, as `ActorPool` of `ray_internals.py` reaches into it: these fail where
Ray changes that.
"""

import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pyarrow as pa
import pytest
import ray
import ray.data

from engine.placement.ray_internals import ActorPool, StreamCallback, draining_nodes

ROWS = 12


@dataclass(frozen=True)
class First:
    """An actor of which the first one to be called stays in that call until it is canceled, or for
    ever where `dies`. Once it is called no further actor becomes ready before the file `over` is
    there.
    """

    folder: str
    dies: bool

    def __post_init__(self):
        if self.path("first").exists():
            wait(self.path("over").exists)
        self.path(f"ready-{os.getpid()}").touch()

    def path(self, name: str) -> Path:
        return Path(self.folder, name)

    def __call__(self, batch: pa.Table) -> pa.Table:
        wait(lambda: len(list(Path(self.folder).glob("ready-*"))) >= 2)
        try:
            with self.path("first").open("x") as file:
                file.write(f"{os.getpid()} {ray.get_runtime_context().get_actor_id()}")
        except FileExistsError:
            return batch.append_column("pid", pa.array([os.getpid()] * len(batch)))
        wait(lambda: not self.dies and ray.get_runtime_context().is_canceled())
        raise RuntimeError("Nobody looks at this.")


def wait(happened) -> None:
    while not happened():
        Event().wait(0.02)  # files send no event


class TakesBack(StreamCallback):
    """Takes the tasks of a dead actor back, and those of one that is named in the file `leaves`."""

    def start(self, pools: list[ActorPool]) -> None:
        self.pools, self.taken = pools, 0
        self.folder = Path(pools[0].context.get_config("folder"))

    def step(self) -> None:
        (pool,) = self.pools
        for actor in pool.actors():
            if actor.is_gone or actor.name == self.leaves():
                self.taken += pool.take_back(actor)
                (self.folder / "taken").write_text(f"{self.taken} {len(pool.actors())}")
        pool.submit_waiting()

    def leaves(self) -> str:
        file = self.folder / "leaves"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def stream(tmp_path):
    """`stream(dies)` is a stream of `ROWS` rows, one a task, through two actors."""
    context = ray.data.DataContext.get_current()
    before = context.copy()
    context.enable_progress_bars = False
    context.set_config("folder", str(tmp_path))
    context.custom_execution_callback_classes = [TakesBack]

    def make(dies: bool) -> ray.data.Dataset:
        return ray.data.range(ROWS, override_num_blocks=ROWS).map_batches(
            First,
            fn_constructor_kwargs={"folder": str(tmp_path), "dies": dies},
            compute=ray.data.ActorPoolStrategy(
                size=2,
                max_tasks_in_flight_per_actor=4,
                max_concurrent_calls_per_actor=2,
                enable_true_multi_threading=True,
            ),
            num_cpus=0,
            batch_size=1,
            batch_format="pyarrow",
        )

    yield make
    (tmp_path / "over").touch()
    ray.data.DataContext._set_current(before)


def when(happened, act) -> threading.Thread:
    thread = threading.Thread(target=lambda: (wait(happened), act()), daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("dies", [True, False])
def test_the_tasks_of_an_actor_go_to_the_other_one(tmp_path, stream, dies):
    """Without that the stream would not end: no actor is started again."""
    first = tmp_path / "first"

    def act() -> None:
        pid, actor = first.read_text().split()
        if dies:
            os.kill(int(pid), signal.SIGKILL)
        else:
            (tmp_path / "leaves").write_text(actor)

    fault = when(lambda: first.exists() and first.read_text(), act)
    rows: Counter[int] = Counter()
    pids: set[int] = set()
    for batch in stream(dies).iter_batches(batch_size=None, batch_format="pyarrow"):
        rows.update(batch["id"].to_pylist())
        pids.update(batch["pid"].to_pylist())
    fault.join()
    assert rows == Counter(range(ROWS))
    taken, left = map(int, (tmp_path / "taken").read_text().split())
    assert taken >= 1  # an actor whose output waits to be taken stays for a moment, and gets more
    assert left == 1
    assert len(pids - {int(first.read_text().split()[0])}) == 1


@pytest.mark.usefixtures("cluster")
def test_no_node_of_this_cluster_is_going_away():
    """Ray answers at all. Nodes that do go away: tests/faults/test_cluster.py."""
    assert draining_nodes() == {}
