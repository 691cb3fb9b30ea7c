"""An hour of runs with random kills in one driver: what grows, and what is left behind.

Each round is a short simulated run (mixing and training at once) on 4 nodes of this machine, in
which mixers, train workers and their nodes are killed. After each round, when its workers have
ended, what is there is counted. A slope is that of the least-squares line over the rounds, without
the first two, which load libraries.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import ray
import ray._private.state
import ray.util

from benchmarks import record
from benchmarks.faults import Nodes, config, nodes, one_run

SETTLE_SECONDS = 10.0
WARM_UP = 2


@dataclass(frozen=True)
class Count:
    """What is there between two rounds."""

    seconds: float
    driver_mb: float
    ray_mb: float
    """Raylets, the GCS and idle workers, together."""
    processes: float
    """Of the driver's, without zombies."""
    files: float
    """That the driver has open."""
    placement_groups: float
    """That are not removed."""
    actors: float
    """That live."""
    shared_mb: float
    """Used in /dev/shm."""
    folders: float
    """Of this project's in the temporary folder."""


def count(start: float) -> Count:
    me = psutil.Process()
    memory, living = 0.0, 0
    for child in me.children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                memory += child.memory_info().rss
                living += 1
        except psutil.Error:
            continue
    groups = ray.util.placement_group_table().values()
    actors = ray._private.state.actors(actor_state_name="ALIVE")  # the public one needs a dashboard
    folders = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("diffmix-")]
    shm = Path("/dev/shm")
    return Count(
        seconds=time.monotonic() - start,
        driver_mb=me.memory_info().rss / 1e6,
        ray_mb=memory / 1e6,
        processes=living,
        files=me.num_fds(),
        placement_groups=sum(group["state"] != "REMOVED" for group in groups),
        actors=len(actors),
        shared_mb=psutil.disk_usage(str(shm)).used / 1e6 if shm.exists() else 0.0,
        folders=len([name for name in folders if "cache" not in name]),
    )


def slope_per_hour(counts: list[Count], name: str) -> float:
    """Of the least-squares line; 0 for fewer than two counts."""
    if len(counts) < 2:
        return 0.0
    x = np.array([one.seconds for one in counts]) / 3600
    y = np.array([getattr(one, name) for one in counts])
    return float(np.polyfit(x, y, 1)[0])


def rounds(minutes: float, round_seconds: float, found: Nodes) -> list[Count]:
    made = config(2, 1, max(4, int(2 * round_seconds)))
    counts: list[Count] = []
    start = time.monotonic()
    while time.monotonic() - start < 60 * minutes:
        faults = (round_seconds / 2, 1.0, len(counts))
        one_run(made, round_seconds, found, faults)
        time.sleep(SETTLE_SECONDS)
        counts.append(count(start))
        print(counts[-1], flush=True)
    return counts


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--round-seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    with nodes(2, 1) as found:
        counts = rounds(chosen.minutes, chosen.round_seconds, found)
    warm = counts[WARM_UP:] or counts
    figures: dict[str, float] = {"rounds": len(counts), "minutes": chosen.minutes}
    rows: list[list[object]] = []
    for name in list(Count.__dataclass_fields__)[1:]:
        slope = slope_per_hour(warm, name)
        first, last = getattr(warm[0], name), getattr(warm[-1], name)
        figures |= {f"{name}_first": first, f"{name}_last": last, f"{name}_per_hour": slope}
        rows.append([name, first, last, slope])
    print(__doc__)
    record.show(f"{len(counts)} rounds", ["what", "first", "last", "slope per hour"], rows)
    record.write(chosen.json, figures)


if __name__ == "__main__":
    main()
