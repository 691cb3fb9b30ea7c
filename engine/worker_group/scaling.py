"""How Ray Train's controller sizes an elastic worker group."""

from __future__ import annotations

import time
from typing import Any

import ray.train
from ray.util.placement_group import PlacementGroup

from engine.placement.ray_internals import no_change, resize, scaling_policy
from engine.worker_group.elastic import Elastic, most, places, room
from engine.worker_group.growth import REGROUP

_LOOK_SECONDS = 1.0


class ElasticPolicy(scaling_policy()):  # type: ignore[misc]
    """Starts a worker group of the usual size, of the size that all its workers have reported, and
    of what is left after the loss of a node. Lives in the controller.

    Ray's own elastic policy takes all that is free, and with it the GPUs that mixers wait for.
    """

    def __init__(self, scaling_config: ray.train.ScalingConfig, elastic: Elastic):
        super().__init__(scaling_config)
        self._elastic = elastic
        self._workers: int = scaling_config.num_workers
        self._group: PlacementGroup | None = None
        self._asked: dict[int, int] = {}
        self._short_since: float | None = None

    def _get_num_workers_for_resource_request(self) -> int:
        """The usual number while there are fewer: it brings the lost node back."""
        return max(self._workers, self._elastic.placement.trainers)

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Called again and again until it is a size."""
        self._maybe_send_resource_request()
        self._asked = {}
        if self._group is None:  # the first start: it waits for what was asked for
            return self._resize(self._workers)
        there = room(self._elastic.placement, places(self._group))
        if there >= self._workers:
            return self._resize(self._workers)
        now = time.monotonic()
        self._short_since = now if self._short_since is None else self._short_since
        fewer = most(self._elastic.possible, there)
        if now - self._short_since < self._elastic.wait_seconds or not fewer:
            time.sleep(_LOOK_SECONDS)  # the controller asks again at once
            return no_change()
        return self._resize(fewer)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> Any:
        """Called every two seconds."""
        self._maybe_send_resource_request()
        self._short_since = None
        self._group = worker_group_state.placement_group_handle.placement_group
        for rank, status in worker_group_status.worker_statuses.items():
            report = status.training_report
            if report is not None and REGROUP in report.metrics:
                self._asked[rank] = report.metrics[REGROUP]
        if len(self._asked) < worker_group_state.num_workers:
            return no_change()
        # All parts of the checkpoint are kept.
        return self._resize(next(iter(self._asked.values())))

    def _resize(self, workers: int) -> Any:
        if workers != self._workers:
            send, before = self._elastic.reporter.send, self._workers
            send("resize", phase="train", workers=workers, before=before)
            send("note", text=f"training goes on with {workers} workers instead of {before}")
        self._workers, self._asked = workers, {}
        return resize(workers, self.scaling_config)
