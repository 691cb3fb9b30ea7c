"""What a job holds of the cluster at its peak."""

from __future__ import annotations

from dataclasses import dataclass

from diffmix.config import Config


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Ray's resources that mixers and train workers hold."""

    mixers: int
    """The fewest mixers."""
    trainers: int
    mixer_gpus: float
    """Of all mixers together; the same for the next three."""
    trainer_gpus: float
    mixer_cpus: float
    trainer_cpus: float
    staged: bool
    """Whether mixing ends before training starts."""

    @property
    def gpus(self) -> float:
        """GPUs at the peak."""
        parts = (self.mixer_gpus, self.trainer_gpus)
        return max(parts) if self.staged else sum(parts)

    @property
    def cpus(self) -> float:
        """CPUs at the peak."""
        parts = (self.mixer_cpus, self.trainer_cpus)
        return max(parts) if self.staged else sum(parts)


def demand(config: Config, mixes: bool = True, trains: bool = True) -> Demand:
    """The least that mixing and training need: the pool's smallest size and all train workers; one
    of each with `placement.auto`, which chooses the numbers later.
    """
    placement = config.placement
    mixers = (1 if placement.auto else placement.mixers[0]) * mixes
    trainers = (1 if placement.auto else placement.trainers) * trains
    return Demand(
        mixers=mixers,
        trainers=trainers,
        mixer_gpus=mixers * placement.gpus_per_mixer,
        trainer_gpus=trainers * placement.gpus_per_trainer,
        # One more CPU for the tasks that read sources: they would wait for the actors for ever.
        mixer_cpus=mixers * placement.cpus_per_mixer + mixes,
        trainer_cpus=trainers * placement.cpus_per_trainer,
        staged=config.run.mode == "staged",
    )
