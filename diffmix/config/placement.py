"""Options of the group `placement`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PlacementConfig:
    """How the cluster's GPUs are shared out. On a machine without CUDA these are logical GPUs and
    run on the CPU.
    """

    mixers: tuple[int, ...] = (1,)
    """Mixer actors: a number, or the least and the most of an autoscaling pool."""
    trainers: int = 1
    """Train workers."""
    personalizers: int = 1
    """Personalization workers. They are done before mixers start, so there may be as many as mixers
    and train workers together.
    """
    gpus_per_mixer: float = 1.0
    """GPUs that Ray reserves for a mixer."""
    gpus_per_trainer: float = 1.0
    """GPUs that Ray reserves for a train worker."""
    cpus_per_mixer: float = 1.0
    """CPUs that Ray reserves for a mixer."""
    cpus_per_trainer: float = 1.0
    """CPUs that Ray reserves for a train worker."""
    auto: bool = False
    """Choose `mixers` and `trainers` from measured rates, so that the cluster's GPUs finish the job
    soonest.
    """
    measured: str | None = None
    """Run folder whose measured rates `auto` and `diffmix plan` go by. None: the run folder's own,
    else `auto` makes a short calibration.
    """
    separate: bool = False
    """Keep mixers on nodes labeled ray-subcluster=gen and train workers on nodes labeled
    ray-subcluster=train.
    """
    max_failures: int = 3
    """How often a broken train worker group is started again from its last checkpoint; -1 is
    without limit.
    """
