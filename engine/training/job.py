"""What a train worker is told, and what it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from diffmix.config import Config
from engine.nodes.shared_folder import Marker
from engine.telemetry import Reporter
from engine.training.arrivals import Arrivals
from engine.training.pool import PoolWriter
from engine.worker_group.elastic import Elastic


@runtime_checkable
class Loop(Protocol):
    """What a train worker runs once its stream flows: `classifier_loop.ClassifierLoop`, or a
    stand-in of `engine/testing.py` with a simulated cost.
    """

    def run(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What a train worker needs to know. It is the same for all workers, and small: it is pickled
    for each.
    """

    config: Config
    train_path: str
    """Path or URI of the training `RealSet`."""
    val_path: str | None
    """Of the validation `RealSet`; None without one."""
    test_path: str | None
    """Of the test `RealSet`; None without one."""
    store: str | None
    """Path or URI of the mix store; None trains without mixes."""
    planned: int
    """Number of mixes in the whole plan."""
    pool_bytes: int = 0
    """About how large the pools of all workers together become; 0 where that is not known."""
    classifier: str
    """Path or URI of the folder for the best weights."""
    reporter: Reporter
    marker: Marker | None = None
    """By which a worker knows the run folder; None where nothing is to be looked for."""
    name: str = "train"
    """Kind of the events that the worker sends: `train` or `baseline`."""
    elastic: Elastic | None = None
    """With it the number of workers may change; None: it stays."""
    build: Callable[[TrainJob, PoolWriter, Arrivals], Loop]
    """Called on the worker; makes the loop that it runs."""
