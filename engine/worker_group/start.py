"""What every worker of Ray Train does before its work."""

from __future__ import annotations

from typing import Protocol

import ray
import ray.train

from engine.nodes.shared_folder import Marker
from engine.telemetry import Reporter


class Job(Protocol):
    """What a worker is told, as far as it is needed here."""

    @property
    def reporter(self) -> Reporter: ...

    @property
    def marker(self) -> Marker | None: ...


def begin(name: str, job: Job) -> None:
    """Send the event `worker_ready` of a worker of the kind `name`. Raises `UserError` where this
    node does not see the run folder.
    """
    rank = ray.train.get_context().get_world_rank()
    node = ray.get_runtime_context().get_node_id()
    job.reporter.send("worker_ready", name=name, rank=rank, node=node)
    if job.marker is not None:
        job.marker.check()
