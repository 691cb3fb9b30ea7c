"""When an elastic worker group stops to go on with more workers."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import ray.train
from ray.util.placement_group import get_current_placement_group

from engine.training.arrivals import Arrivals
from engine.worker_group.elastic import Elastic, more_mixers, most, places, room, saved

if TYPE_CHECKING:
    import torch

REGROUP = "regroup"
"""In what a worker reports with a checkpoint: the number of workers that are to go on from it."""
FIRST_STEPS = 8
"""Steps after which workers first look for room."""
LOOK_SECONDS = 5.0
TURN_SECONDS = 10.0
"""What Ray takes to end a worker group and to start the next, until the loop begins."""


class Regroup(Exception):  # noqa: N818
    """A checkpoint is kept, and training goes on from it with another number of workers."""


class Growth:
    """Says after which step training stops to go on with more workers. All ranks get the same
    answer: rank 0 looks, and they agree on the step at which it looks again.
    """

    def __init__(self, elastic: Elastic | None, arrivals: Arrivals, device: torch.device):
        """`elastic` None: never. `device` is the process group's."""
        context = ray.train.get_context()
        self._rank, self._workers = context.get_world_rank(), context.get_world_size()
        self._elastic, self._arrivals, self._device = elastic, arrivals, device
        self._steps, self._next_look = 0, FIRST_STEPS
        self._first = 0.0
        self._next = 0

    @property
    def shown(self) -> dict[str, int]:
        """What each worker reports with a checkpoint."""
        return {REGROUP: self._next} if self._next else {}

    def leave(self) -> None:
        """The checkpoint is kept: raises `Regroup` where others are to go on from it."""
        if self._next:
            raise Regroup

    def due(self, steps_left: int) -> bool:
        """Whether to stop after the step that has just been made. Every rank calls it after every
        step.
        """
        self._next = self._workers_after(steps_left)
        return self._next > 0

    def _workers_after(self, steps_left: int) -> int:
        """With how many workers to go on; 0: with these."""
        if self._elastic is None:
            return 0
        self._steps += 1
        now = time.monotonic()
        self._first = self._first or now
        if self._steps < self._next_look:
            return 0
        found, pause = 0, 1
        if self._rank == 0:
            each = (now - self._first) / (self._steps - 1)
            found = self._look(self._elastic, each, steps_left)
            pause = max(1, math.ceil(LOOK_SECONDS / max(each, 1e-6)))
        found, pause = self._agree(found, pause)
        self._next_look = self._steps + pause
        return found

    def finish_stream(self, planned: int, pool: int) -> None:
        """Training is over: take the rest of the stream, unless mixers on all GPUs make that rest
        sooner (`phases.make_rest`). `planned` are all mixes, and `pool` those that this worker has.
        Every rank calls it.
        """
        leaves = False
        if self._elastic is not None:
            left = planned - pool * self._workers
            pays = self._rank == 0 and self._mixers_pay(self._elastic, left)
            leaves = self._agree(int(pays)) == [1]
        if not leaves:
            self._arrivals.finish()

    def _mixers_pay(self, elastic: Elastic, left: int) -> bool:
        arrivals, now = self._arrivals, time.monotonic()
        mixers, more = elastic.placement.mixers[-1], more_mixers(elastic.placement, self._workers)
        if not (arrivals.streams and arrivals.streamed and more):
            return False
        start = arrivals.first_streamed - arrivals.began
        each = (now - arrivals.first_streamed) / (arrivals.streamed * self._workers)
        gain = saved(each, left, mixers, mixers + more)
        return gain > elastic.sure * (TURN_SECONDS + start)

    def _agree(self, *numbers: int) -> list[int]:
        """Rank 0's numbers, on every rank."""
        if self._workers == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        shared = torch.tensor(numbers, dtype=torch.int64, device=self._device)
        dist.broadcast(shared, 0)
        return shared.tolist()

    def _look(self, elastic: Elastic, step_seconds: float, steps_left: int) -> int:
        """While mixes stream in, the group goes back to its usual size at most: mixers need the
        rest. A restart then starts the mixers again too, and waits for them.
        """
        streams = self._arrivals.streams
        there = room(elastic.placement, places(get_current_placement_group()))
        if streams:
            there = min(there, elastic.placement.trainers)
        more = most(elastic.possible, there)
        if more <= self._workers:
            return 0
        restart = TURN_SECONDS + self._first - self._arrivals.began
        if not streams:
            restart -= self._arrivals.waited
        gain = saved(step_seconds, steps_left, self._workers, more)
        return more if gain > elastic.sure * restart else 0


def wait_to_be_replaced() -> NoReturn:
    """A worker that ended here would end the whole run; the controller ends it soon."""
    while True:
        threading.Event().wait()
