"""Ray Data's own stage of an actor pool with stand-ins for its actors: every task is counted once,
whatever becomes of the actor that had it. Covers `engine/placement/ray_internals.py`; with real
actors: test_actor_pool.py.
"""

from types import SimpleNamespace

import pytest
import ray
import ray.data
from ray.core.generated import gcs_pb2
from ray.data._internal.actor_autoscaler.autoscaling_actor_pool import ActorPoolScalingRequest
from ray.data._internal.execution.bundle_queue import FIFOBundleQueue
from ray.data._internal.execution.interfaces import ExecutionResources, RefBundle, physical_operator
from ray.data._internal.execution.interfaces.physical_operator import MetadataOpTask
from ray.data._internal.execution.interfaces.ref_bundle import BlockEntry
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.data.block import BlockMetadata

from engine.placement.ray_internals import ActorPool

STATE = gcs_pb2.ActorTableData.ActorState
IN_FLIGHT = 4


class Outputs:
    """Stands in for a task's generator."""

    def __init__(self, actor):
        task = SimpleNamespace(actor_id=lambda: actor._actor_id)
        self._generator_ref = SimpleNamespace(task_id=lambda: task)
        self.end = ray.ObjectRef.from_random()

    def completed(self):
        return self.end


class Actor:
    def __init__(self, number: int):
        self._actor_id = ray.ActorID(bytes([number]) * 16)
        self.state = STATE.ALIVE
        self.tasks: list[object] = []
        self.submit = self

    def _get_local_state(self):
        return self.state

    def options(self, **_):
        return self

    def remote(self, context, task, block, **_):
        self.tasks.append(block)
        return Outputs(self)


class Stage:
    """A stage whose two actors may have `IN_FLIGHT` tasks each."""

    def __init__(self, monkeypatch):
        module = actor_pool_map_operator
        monkeypatch.setattr(physical_operator, "ObjectRefGenerator", Outputs)
        monkeypatch.setattr(module, "get_draining_nodes", dict)
        monkeypatch.setattr(module, "get_actor_locations", lambda names: {})
        monkeypatch.setattr(RefBundle, "get_preferred_object_locations", lambda bundle: {})
        self.canceled: list[object] = []
        monkeypatch.setattr(ray, "cancel", lambda task, **_: self.canceled.append(task))
        monkeypatch.setattr(ray, "get", lambda *_, **__: "node")
        context = ray.data.DataContext()
        strategy = ray.data.ActorPoolStrategy(
            size=2, max_tasks_in_flight_per_actor=IN_FLIGHT, max_concurrent_calls_per_actor=2
        )
        self.operator = module.ActorPoolMapOperator(
            SimpleNamespace(),
            InputDataBuffer(context, input_data=[]),
            context,
            strategy,
            ray_remote_args={"num_gpus": 1},
        )
        self.operator._started, self.operator._output_queue = True, FIFOBundleQueue()
        self.operator._data_context_ref = self.operator._block_ref_counter = None
        self.actors: list[Actor] = []
        self.operator._actor_pool._create_actor_fn = self._create
        self.pool = ActorPool(self.operator)
        self.start(2)

    def _create(self, labels, name):
        self.actors.append(Actor(len(self.actors) + 1))
        usage = ExecutionResources(cpu=0, gpu=1)
        return self.actors[-1], ray.ObjectRef.from_random(), usage

    def start(self, actors: int) -> None:
        pool = self.operator._actor_pool
        pool.scale(ActorPoolScalingRequest(delta=actors, reason="a test"))
        for ready in list(pool.get_pending_actor_refs()):
            pool.pending_to_running(ready)
        self.operator.refresh_state()

    def submit(self, tasks: int) -> list:
        blocks = [ray.ObjectRef.from_random() for _ in range(tasks)]
        for block in blocks:
            about = BlockMetadata(num_rows=1, size_bytes=10, exec_stats=None, input_files=None)
            bundle = RefBundle([BlockEntry(block, about)], schema=None, owns_blocks=True)
            self.operator.add_input(bundle, 0)
        self.operator._inputs_complete = True
        return blocks

    def finish_all(self) -> list:
        """Let tasks end, one after the other. Gives what they had worked on."""
        done = []
        stats = SimpleNamespace(task_output_backpressure_s=0)
        while tasks := self.operator._data_tasks:
            number, task = next(iter(tasks.items()))
            if isinstance(task, MetadataOpTask):
                task.on_task_finished()
                continue
            done += self.operator.metrics._running_tasks[number].inputs.block_refs
            task._task_done_callback(None, None, stats)
            self.pool.submit_waiting()
        return done


@pytest.fixture
def stage(monkeypatch):
    return Stage(monkeypatch)


def test_a_dead_actors_tasks_wait_for_room_with_the_other(stage):
    blocks = stage.submit(2 * IN_FLIGHT)
    first, second = stage.actors
    first.state = STATE.RESTARTING
    stage.operator.refresh_state()
    (dead,) = [actor for actor in stage.pool.actors() if actor.is_gone]
    assert stage.pool.take_back(dead) == len(stage.canceled) == IN_FLIGHT
    assert [actor.handle for actor in stage.pool.actors()] == [second]
    assert stage.operator.current_logical_usage().gpu == 1
    assert stage.operator.pending_logical_usage().gpu == 0
    stage.pool.submit_waiting()
    assert len(second.tasks) == IN_FLIGHT
    stage.start(1)
    stage.pool.submit_waiting()
    assert len(stage.actors[2].tasks) == IN_FLIGHT
    assert not stage.operator.has_completed()
    assert sorted(stage.finish_all(), key=str) == sorted(blocks, key=str)
    assert stage.operator.has_completed()
    assert stage.operator.metrics.num_tasks_running == 0


@pytest.mark.parametrize("dies", [True, False])
def test_a_leaving_actors_tasks_are_handed_on_when_they_end_or_it_dies(stage, dies):
    blocks = stage.submit(IN_FLIGHT)
    leaving, other = stage.pool.actors()
    had = len(leaving.handle.tasks)
    assert stage.pool.take_back(leaving) == had > 0
    before = len(other.handle.tasks)
    stage.pool.submit_waiting()
    assert len(other.handle.tasks) == before, "it may still finish what it has begun"
    assert stage.operator.current_logical_usage().gpu == 1
    assert not stage.operator.has_completed()
    if dies:
        leaving.handle.state = STATE.DEAD
        stage.pool.submit_waiting()
        assert len(other.handle.tasks) == IN_FLIGHT
    assert sorted(stage.finish_all(), key=str) == sorted(blocks, key=str)
    assert len(other.handle.tasks) == IN_FLIGHT
    assert stage.operator.has_completed()


def test_idle_actors_stay_while_a_task_may_still_come_back(stage):
    stage.submit(1)
    pool = stage.operator._actor_pool
    idle = ActorPoolScalingRequest.downscale(delta=-1, force=True, reason="consumed all inputs")
    assert not pool.scale(idle)
    assert pool.current_size() == 2
    stage.finish_all()
    assert pool.scale(idle) == -1


def test_a_task_that_has_given_output_stays_and_so_does_its_actor(stage):
    stage.submit(IN_FLIGHT)
    first = stage.pool.actors()[0]
    had = len(first.handle.tasks)
    number = next(
        number
        for number, task in stage.operator._data_tasks.items()
        if task.get_task_id().actor_id() == first.handle._actor_id
    )
    stage.operator.metrics._running_tasks[number].num_outputs = 1
    assert stage.pool.take_back(first) == had - 1
    assert first.name in [actor.name for actor in stage.pool.actors()]
    stage.operator.metrics._running_tasks[number].num_outputs = 0
    assert stage.pool.take_back(first) == 1
    assert first.name not in [actor.name for actor in stage.pool.actors()]
