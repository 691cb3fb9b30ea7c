"""Work on a GPU that is recorded once, as a CUDA graph, and then replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffmix.errors import reason

log = logging.getLogger(__name__)

_WARM_UP = 3

Work = Callable[[Sequence[Tensor]], Tensor]
"""Adds gradients for the inputs, which are on the device; gives the loss, a scalar."""


class Recording(NamedTuple):
    """Work on inputs of one shape."""

    inputs: list[Tensor]
    """What it reads."""
    loss: Tensor
    """Where it puts its result."""
    replay: Callable[[], None]


def recorded(work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Record what `work` does on the GPU. Gives its result, which each call of the second value
    computes anew: with the same kernels, at the same addresses.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return result, graph.replay


class StepGraph:
    """Forward and backward passes by replaying a recording, one for each shape of the inputs. Owned
    by one process's training.

    A recording has the addresses of the gradients of `trained`: they have to be zeroed between
    steps, and not dropped. What cannot be recorded is done as usual, and `say` gets a sentence.
    """

    def __init__(
        self,
        work: Work,
        trained: Sequence[torch.nn.Parameter],
        say: Callable[[str], None] = lambda text: None,
    ):
        self._work, self._trained, self._say = work, trained, say
        self._recordings: dict[tuple, Recording] = {}
        self.is_on = True
        """Whether recordings are used."""

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The loss of these inputs, whose gradients are added. The next call overwrites it."""
        shape = tuple(tensor.shape for tensor in inputs)
        if self.is_on and shape not in self._recordings:
            try:
                self._recordings[shape] = self._record(inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.drop()
                text = f"the step cannot be recorded as a CUDA graph ({reason(error)})"
                log.warning("%s: going on without", text)
                self._say(f"{text}: personalization goes on without")
        if not self.is_on:
            return self._work(inputs)
        recording = self._recordings[shape]
        for place, tensor in zip(recording.inputs, inputs, strict=True):
            place.copy_(tensor)
        recording.replay()
        return recording.loss

    def drop(self) -> None:
        """Forget the recordings and their memory; go on without."""
        self.is_on = False
        self._recordings.clear()

    def _record(self, inputs: Sequence[Tensor]) -> Recording:
        places = [tensor.clone() for tensor in inputs]
        gradients = []
        for parameter in self._trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        before = [gradient.clone() for gradient in gradients]
        try:
            return Recording(places, *recorded(lambda: self._work(places)))
        finally:  # the calls that warm up have added to them
            for gradient, value in zip(gradients, before, strict=True):
                gradient.copy_(value)
