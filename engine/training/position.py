"""Where training stands within an epoch, and when it is time to keep that.

A checkpoint holds DeepSpeed's state and, for each rank, a position: the random numbers that come
next, and what the rank has seen of the epoch. A resumed epoch therefore goes on with the step after
the checkpoint, and its figures are those of the whole epoch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Sampler

from engine.nodes.notice import Notice

FIRST_STEPS = 8
"""Steps after which ranks first agree on how many steps lie between two checkpoints."""
LOOK_SECONDS = 2.0
"""Ranks ask about so often whether a node is going away."""


@dataclass
class Seen:
    """What one rank has seen of an epoch."""

    images: int = 0
    synthetic: int = 0
    wait: float = 0.0
    """Seconds of waiting for data."""
    loss: torch.Tensor | float = 0.0
    """Sum over the steps."""
    steps: int = 0

    def add(self, images: int, synthetic: int, loss: torch.Tensor) -> None:
        self.images += images
        self.synthetic += synthetic
        self.loss = self.loss + loss  # computing goes on meanwhile: no number is asked for
        self.steps += 1

    def add_other(self, other: Seen) -> None:
        """Add what another rank has seen."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Position:
    """A rank's place in training: the step that comes next."""

    epoch: int = 0
    step: int = 0
    """Steps of the epoch that are done."""
    seen: Seen = field(default_factory=Seen)
    random: dict[str, torch.Tensor] = field(default_factory=dict)
    """States of torch's generators; empty: they stay as they are."""

    def save(self, folder: str, rank: int) -> None:
        """Add the position to a rank's part of a checkpoint."""
        seen = {**vars(self.seen), "loss": float(self.seen.loss)}
        values = {"epoch": self.epoch, "step": self.step, "seen": seen}
        Path(folder, f"position-{rank}.json").write_text(json.dumps(values))
        save_file(self.random, str(Path(folder, f"random-{rank}.safetensors")))

    @staticmethod
    def load(folder: str, rank: int, world_size: int, place: dict) -> Position:
        """The position of one of `world_size` ranks at `place`, an `epoch` and, within it, a
        `step`. Where there were more ranks, what they have seen of the epoch is shared out; where
        there were fewer, the new ones have seen nothing.
        """
        epoch, step = place["epoch"], place.get("step", 0)
        seen, number = Seen(), rank
        while (kept := Path(folder, f"position-{number}.json")).exists():
            seen.add_other(Seen(**json.loads(kept.read_text())["seen"]))
            number += world_size
        if number == rank:
            return Position(epoch, step)
        # A float holds each float32 exactly, and a sum goes on in the type that it began in.
        seen.loss = torch.tensor(seen.loss, dtype=torch.float32)
        random = load_file(str(Path(folder, f"random-{rank}.safetensors")))
        return Position(epoch, step, seen, random)

    def restore_random(self) -> None:
        """Make the next random numbers those that came next when the position was kept."""
        if "cpu" in self.random:
            torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.random["cuda"])


def random_state() -> dict[str, torch.Tensor]:
    """The states of torch's generators of this process."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


class CheckpointClock:
    """Says after which steps a checkpoint is due. All ranks get the same answer.

    Ranks' clocks differ, and asking one another at each step would cost time. So all ranks ask rank
    0's clock at the same few steps, and agree on the step at which they ask again.
    """

    def __init__(
        self,
        minutes: float,
        world_size: int,
        device: torch.device,
        notice: Notice | None = None,
    ):
        """`minutes` 0: due only where the notice says so that a node is going away."""
        self.seconds, self.world_size, self.device = 60 * minutes, world_size, device
        self._notice, self._looked = notice, time.monotonic()
        self._pause = LOOK_SECONDS if notice else math.inf
        self._first = 1 if world_size == 1 else FIRST_STEPS
        self.kept()

    def kept(self) -> None:
        """A checkpoint was kept, for whatever reason: the time counts from now."""
        self._since, self._steps = time.monotonic(), 0
        self._asks = self._first
        if self._notice is not None:
            self._notice.kept()

    def due(self) -> bool:
        """Whether a checkpoint is due after the step that has just been made. Every rank calls it
        after every step.
        """
        self._steps += 1
        seconds = self.seconds or math.inf
        pause = min(seconds, self._pause)
        if math.isinf(pause) or self._steps < self._asks:
            return False
        passed = self._passed()
        if passed >= seconds:
            return True
        if self.world_size > 1:
            step = max(passed / self._steps, 1e-6)
            self._asks = self._steps + max(1, math.ceil(min(seconds - passed, pause) / step))
            self._first = min(FIRST_STEPS, max(1, math.ceil(pause / step)))
        return False

    def _passed(self) -> float:
        """Seconds since the last checkpoint, on rank 0's clock; infinite where a node's notice asks
        for one.
        """
        now = time.monotonic()
        passed = now - self._since
        if self._notice is not None:
            if self.world_size > 1 or now - self._looked >= self._pause:
                self._looked = now
                self._notice.look()
            if self._notice.is_due():
                passed = math.inf
        if self.world_size == 1:
            return passed
        shared = torch.tensor([passed], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)


class Resumed(Sampler):
    """A sampler without the samples that were drawn before the epoch was interrupted."""

    def __init__(self, sampler: Sampler):
        self.sampler = sampler
        self.skip = 0
        """Samples of this rank to leave out of the next iteration."""

    def __len__(self) -> int:
        return len(self.sampler) - self.skip  # type: ignore[arg-type]

    def __iter__(self) -> Iterator:
        return islice(iter(self.sampler), self.skip, None)


def timed(
    batches: DataLoader, waited: Callable[[float], None], began: Callable[[], None]
) -> Iterator:
    """The batches. `began` is called once, when their iterator is there. `waited` is called for
    each batch with the seconds until it came.
    """
    iterator = iter(batches)
    began()
    while True:
        start = time.perf_counter()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        waited(time.perf_counter() - start)
        yield batch
