"""Options of the groups `run` and `limits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from diffmix.options.markers import Numbers, PathOrName, Share, Unit, Usual


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The job as a whole."""

    mode: Usual[Literal["overlapped", "staged"]] = "overlapped"
    """overlapped: train while mixing; staged: mix first. Only `staged` is exactly reproducible."""
    seed: Usual[NonNegativeInt] = 0
    """Seed of the plan, of personalization and of training."""
    seeds: tuple[NonNegativeInt, ...] = ()
    """Seeds that `diffmix run` does the whole job for. Each gets a folder OUT/seed-N; the report
    has mean and standard deviation. Empty: `seed` alone.
    """
    seeds_vary: Literal["everything", "classifier"] = "everything"
    """What `seeds` are for: the whole job, or the classifier alone. `classifier` makes one concept
    and one set of mixes by `seed`, and then trains on it once for each of `seeds`. [C] classifier
    """
    address: Usual[str | None] = None
    """Ray cluster to join; `auto` is a running one. None: the cluster that the job was submitted
    to; without one, a new one on this machine.
    """
    train_after: Share = 0.05
    """Share of the planned mixes that must be there before training starts. For overlapped mode.
    """
    chunk_tries: PositiveInt = 3
    """How often a chunk of mixes is tried before it is set aside, so that the run goes on without
    it.
    """
    chunk_deadline: Annotated[PositiveFloat | None, Unit("seconds")] = None
    """How long a mixer may take for a chunk before it is replaced. None: ten times its slowest
    chunk, at least 600, and 3600 for its first.
    """
    max_set_aside: Share = 0.01
    """Share of the chunks that may be set aside, at least one chunk; with more of them the run
    ends.
    """
    repair: bool = False
    """Check all stored mixes first, and make damaged ones and those that were set aside again."""
    display: Literal["auto", "live", "lines", "json"] = "auto"
    """How progress is shown: a live view, plain lines, or every event as a line of JSON on standard
    output. auto: live in a terminal, else lines.
    """
    verbose: bool = False
    """Also print what Ray, libraries and workers print."""
    listeners: tuple[str, ...] = ("progress", "tensorboard")
    """Who hears the run's events besides `metrics.jsonl`: names from `engine/listeners.py`. The
    name `progress` is what `display` shows; `tensorboard` keeps files in OUT/tensorboard; `mlflow`,
    `wandb` and `trackio` need a package of that name; `ray` is Ray's own metrics. Empty: nobody.
    """
    oracle: PathOrName | None = None
    """Folder of a classifier that reports the share of mixes that show their target class. `nano`
    is the one for the embedded data set. None: off.
    """


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What a run may cost, over all attempts in its run folder. Mixing stops in time for training
    to end within the limit: what is made by then is stored, and `plan.cut` of `summary.json` counts
    the mixes that were left out. A larger limit goes on with them.
    """

    hours: Annotated[PositiveFloat | None, Unit("hours")] = None
    """Hours that the run may take. None: no limit."""
    gpu_hours: Annotated[PositiveFloat | None, Unit("GPU-hours")] = None
    """Hours of GPUs in use on the cluster. Those of another run beside it count too. None: no
    limit.
    """
    usd: Annotated[PositiveFloat | None, Unit("dollars")] = None
    """Dollars for the cluster's nodes while the run runs, by `prices`. None: no limit."""
    prices: Numbers = ()
    """Dollars an hour of one node, for each value of the label `ray-subcluster`. For example
    `gen=0.4 train=2.1`, and `other=0.1` for nodes without one. With them the report says what a run
    cost, also where nothing is limited; `limits.usd` needs them. Empty: no cost is measured.
    """
    for_training: Share = 0.2
    """Share of each limit that is kept for training until an epoch has been timed."""
