"""Replayed training steps, with a stand-in for CUDA graphs that knows no Python either."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffmix.config import PersonalizeConfig
from diffmix.generator.device import graph
from diffmix.personalize import train as module
from diffmix.personalize.train import Attempt, ConceptTraining
from diffmix.storage import Folder

WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""torch's own marks of operations whose result the CPU has to wait for."""


def _is_mask(index) -> bool:
    """Whether indexing by it gives a shape that depends on values."""
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


class Tape(TorchDispatchMode):
    """Notes every operation with the very tensors that it reads and writes, and does them again.

    As with a CUDA graph, values that Python has seen while it was recorded stay as they were.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.waits = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        masks = [index for index in tree_leaves(args[1:]) if _is_mask(index)]
        if WAITS & set(function.tags) and (masks or function is not torch.ops.aten.index.Tensor):
            self.waits.append(str(function))
        self.calls.append((function, args, kwargs or {}, made))
        return made

    def replay(self):
        for function, args, kwargs, made in self.calls:
            again = function(*args, **kwargs)
            for place, value in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


@pytest.fixture
def tapes(monkeypatch):
    """Tapes in place of CUDA graphs."""
    made = []

    def recorded(work):
        work()
        with Tape() as tape:
            loss = work()
        made.append(tape)
        with torch.no_grad():
            return loss, torch.no_grad()(tape.replay)

    monkeypatch.setattr(graph, "recorded", recorded)
    return made


@pytest.fixture
def training(tmp_path, tiny_model, tiny_real):
    def make(on_note=None, **options):
        options = {"batch_size": 3, "lora_rank": 2, "lora_lr": 1e-2, "token_lr": 1e-2, **options}
        config = PersonalizeConfig(**options)
        attempt = Attempt(on_note=on_note)
        return ConceptTraining(tiny_model, config, tiny_real, 0, attempt, Folder(str(tmp_path)))

    return make


def turned_on(one: ConceptTraining) -> ConceptTraining:
    one.graph.is_on = True
    return one


def weights(one: ConceptTraining) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in one.state.parameters.values()])


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"tokens": False}])
def test_replayed_steps_are_those_of_python(training, tapes, options):
    usual, replayed = training(**options), turned_on(training(**options))
    for number in range(5):
        one, other = usual.step(number).item(), replayed.step(number).item()
        assert other == pytest.approx(one, rel=1e-6)
    assert len(tapes) == 1, "one shape, one recording"
    torch.testing.assert_close(weights(usual), weights(replayed), rtol=0, atol=1e-6)


def test_nothing_in_a_step_waits_for_the_device(training, tapes):
    """Neither in the passes nor in the optimizer's step."""
    one = turned_on(training())
    one.step(0)
    assert tapes[0].waits == []
    with Tape() as tape:
        one.state.update(1.0, keep=True)
    assert tape.waits == []
    with Tape() as tape:
        weights(one).sum().item()
    assert tape.waits == ["aten._local_scalar_dense.default"], "the check itself"


def test_another_shape_is_another_recording_and_keeps_gradients(tapes):
    weight = torch.nn.Parameter(torch.tensor([2.0]))

    def work(inputs):
        loss = (weight * inputs[0]).sum()
        loss.backward()
        return loss.detach()

    step = graph.StepGraph(work, [weight])
    assert step([torch.tensor([1.0])]) == 2
    assert step([torch.tensor([1.0, 2.0])]) == 6
    assert step([torch.tensor([10.0])]) == 20
    assert weight.grad == 1 + 3 + 10
    assert len(tapes) == 2


def test_what_cannot_be_recorded_is_done_as_usual_and_said(training, monkeypatch, caplog):
    def refused(work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph, "recorded", refused)
    said = []
    usual, other = training(), turned_on(training(on_note=said.append))
    losses = [[one.step(number).item() for number in range(2)] for one in (usual, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert said == [
        "the step cannot be recorded as a CUDA graph (operation not permitted when stream is "
        "capturing): personalization goes on without"
    ]
    assert not other.graph.is_on


def test_memory_that_runs_out_ends_the_graph_and_halves_the_batch(training, tapes, monkeypatch):
    said = []
    one = turned_on(training(said.append, batch_size=4))
    forward = one.loss.forward

    def full(latents, *more):
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(latents, *more)

    monkeypatch.setattr(one.loss, "forward", full)
    assert one.step(0).item() == pytest.approx(training(batch_size=4).step(0).item(), rel=1e-5)
    assert not one.graph.is_on
    assert "accumulates 2 images" in said[0]


def test_without_a_gpu_it_is_left_out_and_said(training, caplog):
    one = training(cuda_graph=True)
    assert not one.graph.is_on
    assert "--personalize.cuda_graph is for one worker, on a GPU" in caplog.text
    assert module.StepGraph is graph.StepGraph
