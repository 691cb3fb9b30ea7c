"""The tasks of mixers that are dead, or whose node is going away, go to other mixers.

Ray Data leaves a task with the actor that has it, and starts a dead actor again when there is room
for it: at a stream's end the run would wait for that alone.
"""

from __future__ import annotations

import time
from collections import defaultdict

import ray
import ray.data

from engine.placement.ray_internals import (
    ActorPool,
    PoolActor,
    StreamCallback,
    draining_nodes,
)
from engine.telemetry import Reporter

_REPORTER = "diffmix_reporter"
_LOOK_SECONDS = 1.0


def hand_over_tasks(context: ray.data.DataContext, reporter: Reporter) -> None:
    """Let the streams that start with this context hand the tasks of lost mixers to others."""
    context.set_config(_REPORTER, reporter)
    context.custom_execution_callback_classes = [HandOver]


class HandOver(StreamCallback):
    """Looks after the mixers of one stream. Ray Data owns it, in the process that runs the stream.

    A mixer on a node that is going away finishes its chunk and takes no more. The pool counts
    neither it nor a dead one, so that another is started where there is room.
    """

    def __init__(self) -> None:
        self._pools: list[ActorPool] = []
        self._reporter: Reporter | None = None
        self._going: dict[str, float | None] = {}
        self._said: set[str] = set()
        self._gone: set[str] = set()
        self._looked = 0.0

    def start(self, pools: list[ActorPool]) -> None:
        self._pools = pools
        if pools:
            self._reporter = pools[0].context.get_config(_REPORTER)

    def step(self) -> None:
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._going, self._looked = draining_nodes(), now
        for pool in self._pools:
            going = defaultdict(list)
            for actor in pool.actors():
                if actor.is_gone:
                    self._lost(pool, actor)
                    continue
                self._gone.discard(actor.name)
                if actor.node in self._going:
                    going[actor.node].append(actor)
            for node, actors in going.items():
                self._leaving(pool, node, actors)
            pool.submit_waiting()

    def _lost(self, pool: ActorPool, actor: PoolActor) -> None:
        is_new = actor.name not in self._gone
        if is_new:
            self._gone.add(actor.name)
            # Before its tasks are handed on, because a mixer that gets one asks for it.
            self._record("mixer_lost", node=actor.node)
        tasks = pool.take_back(actor)
        if is_new or tasks:
            text = f"a mixer on {_name(actor.node)} is dead{_go(tasks)}"
            self._record("note", text=text, node=actor.node, tasks=tasks)

    def _leaving(self, pool: ActorPool, node: str, actors: list[PoolActor]) -> None:
        tasks = sum(pool.take_back(actor) for actor in actors)
        if node in self._said and not tasks:
            return
        self._said.add(node)
        who = "its mixer finishes its chunk and takes no more"
        if len(actors) > 1:
            who = f"its {len(actors)} mixers finish their chunks and take no more"
        text = f"{leaving(node, self._going[node])}: {who}{_go(tasks)}"
        self._record("note", text=text, node=node, tasks=tasks)

    def _record(self, kind: str, **values: object) -> None:
        if self._reporter is not None:
            self._reporter.record(kind, **values)


def leaving(node: str, moment: float | None) -> str:
    """`node 10.0.0.7 is going away in 28 s`. `moment` is in seconds since 1970; None: unknown."""
    when = "" if moment is None else f" in {max(moment - time.time(), 0):.0f} s"
    return f"node {_name(node)} is going away{when}"


def _name(node: str) -> str:
    """A node's address, by its id."""
    known = {found["NodeID"]: found["NodeManagerAddress"] for found in ray.nodes()}
    return known.get(node, node[:12])


def _go(tasks: int) -> str:
    if not tasks:
        return ""
    return f"; its {tasks} {'task goes' if tasks == 1 else 'tasks go'} to other mixers"
