"""What every worker of Ray Train does around its work: it reports that it is there, and ends for
good where the user has to mend something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import ray
import ray.train

from diffmix.errors import UserError
from engine.failures import user_error
from engine.nodes.shared_folder import Marker
from engine.telemetry import Reporter


class Job(Protocol):
    """What a worker is told, as far as it is needed here."""

    @property
    def reporter(self) -> Reporter: ...

    @property
    def marker(self) -> Marker | None: ...


def run_worker(name: str, job: Job, work: Callable[[], None]) -> None:
    """Send the event `worker_ready`, then do the work of a worker of the kind `name`.

    Ray Train would start all workers and mixers again for an error that is raised, and a user's
    mistake comes back each time. So a worker that meets a `UserError` hands it to the collector and
    ends as if it were done. Workers that this takes with it start again, find the error there and
    end too. `engine.phases` raises it.
    """
    context = ray.train.get_context()
    node = ray.get_runtime_context().get_node_id()
    job.reporter.send("worker_ready", name=name, rank=context.get_world_rank(), node=node)
    if job.reporter.refusal() is not None:
        return
    try:
        if job.marker is not None:
            job.marker.check()
        work()
    except UserError as error:
        job.reporter.refuse(str(user_error(error) or error))
        _leave_group()


def _leave_group() -> None:
    """Let go of the other workers, which would wait in a collective for this one."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
