"""Options of the group `placement`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Len
from pydantic import NonNegativeFloat, PositiveInt

from diffmix.options.markers import Numbers, Path, Unit, Usual


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """How the cluster's GPUs are shared out. Without CUDA they are logical and run on the CPU."""

    mixers: Usual[Annotated[tuple[PositiveInt, ...], Len(1, 2)]] = (1,)
    """Mixers: a number, or least and most of an autoscaling pool."""
    trainers: Usual[PositiveInt] = 1
    """Train workers."""
    personalizers: PositiveInt = 1
    """Personalization workers. They finish before mixers start, so there may be as many as mixers
    and train workers together.
    """
    gpus_per_mixer: Annotated[NonNegativeFloat, Unit("GPUs")] = 1.0
    """GPUs that Ray reserves for a mixer. With 0 it takes the CPU, with a part of a GPU that part
    of its memory.
    """
    gpus_per_trainer: Annotated[NonNegativeFloat, Unit("GPUs")] = 1.0
    """GPUs that Ray reserves for a train worker. With 0 it takes the CPU. A part of a GPU is for
    one worker alone: the workers of one group cannot share a GPU.
    """
    cpus_per_mixer: Annotated[NonNegativeFloat, Unit("CPUs")] = 1.0
    """CPUs that Ray reserves for a mixer."""
    cpus_per_trainer: Annotated[NonNegativeFloat, Unit("CPUs")] = 1.0
    """CPUs that Ray reserves for a train worker."""
    auto: Usual[bool] = False
    """Choose `mixers` and `trainers` from measured rates. The split of the cluster's GPUs is the
    one that finishes the job soonest.
    """
    measured: Path | None = None
    """Run folder whose measured rates `placement.auto` and `diffmix plan` use. None: the run
    folder's own rates; without them, `placement.auto` makes a short calibration.
    """
    separate: bool = False
    """Keep mixers and train workers on nodes of their own. Mixers use nodes labeled
    `ray-subcluster=gen`, train workers nodes labeled `ray-subcluster=train`.
    """
    max_failures: Annotated[int, Ge(-1)] = 3
    """How often a broken train worker group restarts from its last checkpoint; -1 is always."""
    cluster_max: Numbers = ()
    """GPUs that the cluster may grow to, for each value of the label `ray-subcluster`. The word
    `any` is for nodes without a label. Empty: what the cluster's autoscaler says.
    """
    wait_minutes: Annotated[NonNegativeFloat | None, Unit("minutes")] = None
    """How long the run waits for nodes that it needs. None: without limit on a cluster that grows,
    and not at all on one that does not.
    """
    ask_ahead_minutes: Annotated[NonNegativeFloat, Unit("minutes")] = 5.0
    """How long before personalization ends mixing nodes are asked for. For clusters that grow: the
    time that a new node takes until it can work.
    """
    elastic: bool = False
    """Let the number of train workers change while the classifier trains. When the stream of mixes
    has ended and enough of training is left, it goes on with more workers on GPUs that are free.
    After the loss of a node it goes on with fewer, until the node is back. Workers stay on nodes
    labeled `ray-subcluster=train` with `placement.separate`.
    """
    elastic_minutes: Annotated[NonNegativeFloat, Unit("minutes")] = 10.0
    """How long `placement.elastic` waits for a lost train node on a cluster that grows. Then it
    goes on with fewer workers. On a cluster of a fixed size it does not wait.
    """
