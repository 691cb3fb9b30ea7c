"""Options of the group `run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class RunConfig:
    """The job as a whole."""

    mode: Literal["overlapped", "staged"] = "overlapped"
    """Train while mixes are being made, or make all mixes first (the exactly reproducible way)."""
    seed: int = 0
    """Seed of the plan, of personalization and of training."""
    seeds: tuple[int, ...] = ()
    """`diffmix run` does the whole job for each of these in OUT/seed-N and reports mean and
    standard deviation. Empty: `seed` alone.
    """
    address: str | None = None
    """Ray cluster: None starts one on this machine, or joins the one that the job was submitted to;
    `auto` joins a running one.
    """
    train_after: float = 0.05
    """Overlapped mode: share of the planned mixes that must be there before training starts, [0,
    1].
    """
    oracle: str | None = None
    """Folder of a classifier that is only used to report the share of mixes that show their target
    class, or `nano`, the one that comes with the embedded data. None: off.
    """
