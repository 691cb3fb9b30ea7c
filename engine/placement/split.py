"""How many GPUs mix and how many train: predicted from rates that a run has measured, or a short
calibration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.telemetry import read_events

_WORTH = 1.01
"""A split that takes more GPUs has to be this much faster than the next smaller one."""


@dataclass(frozen=True)
class Rates:
    """What one mixer and a group of train workers do."""

    mixer: float
    """Mixes per second of one mixer that always has work."""
    train_seconds: dict[int, float]
    """Number of train workers -> seconds of the whole training. Numbers that nobody measured are
    not there.
    """
    source: str
    """Where the rates come from, for people."""


@dataclass(frozen=True)
class Split:
    """A way to share out GPUs, and what it is predicted to take."""

    mixers: int
    trainers: int
    generate: float
    """Seconds of mixing."""
    train: float
    """Seconds of training."""
    wall: float
    """Seconds of both."""
    gpus: float


def predict(config: Config, rates: Rates, planned: int, mixers: int, trainers: int) -> Split:
    """Mixing scales with the mixers. Overlapped training starts when `run.train_after` of the mixes
    are there.
    """
    place = config.placement
    generate, train = planned / (rates.mixer * mixers), rates.train_seconds[trainers]
    mixing, training = mixers * place.gpus_per_mixer, trainers * place.gpus_per_trainer
    if config.run.mode == "staged":
        return Split(mixers, trainers, generate, train, generate + train, max(mixing, training))
    wall = max(generate, config.run.train_after * generate + train)
    return Split(mixers, trainers, generate, train, wall, mixing + training)


def choose(config: Config, rates: Rates, planned: int, gpus: float) -> Split:
    """The fastest split of at most `gpus`, with the fewest GPUs that reach its time; `UserError`
    where none fits.

    A split that is slower than another by less than 1 % and takes fewer GPUs is the better one:
    GPUs that only wait cost money.
    """
    possible = [
        split
        for trainers in rates.train_seconds
        if config.train.batch_size % trainers == 0
        for mixers in range(
            1,
            int(gpus / config.placement.gpus_per_mixer) + 1
            if config.placement.gpus_per_mixer
            else config.placement.mixers[-1] + 1,
        )
        if (split := predict(config, rates, planned, mixers, trainers)).gpus <= gpus + 1e-9
    ]
    if not possible:
        raise UserError(
            f"{gpus:g} GPUs are too few for a mixer and a train worker; add nodes or lower --placement.gpus_per_mixer."
        )
    fastest = min(split.wall for split in possible)
    return min(
        (split for split in possible if split.wall <= fastest * _WORTH),
        key=lambda split: (split.gpus, split.wall),
    )


def train_images(config: Config, real: int) -> int:
    """Samples that the whole training draws: full batches that cover the `real` images once an
    epoch.
    """
    return config.train.epochs * -(-real // config.train.batch_size) * config.train.batch_size


def measured(config: Config, out: Folder, real: int) -> Rates | None:
    """The rates of the last run in `placement.measured`, else in the run folder `out`: from its
    `summary.json`, else from its calibration.

    None where it has neither.
    """
    folder = Folder(config.placement.measured) if config.placement.measured else out
    if folder.exists("summary.json"):
        summary = json.loads(folder.read("summary.json"))
        mixer, trainer = summary["mixer"].get("images_per_busy_second"), summary["trainer"]
        if mixer and trainer.get("workers") and trainer["images_per_second"]:
            seconds = train_images(config, real) / trainer["images_per_second"]
            return Rates(mixer, {trainer["workers"]: seconds}, f"measured in {folder.uri}")
    calibrations = [event for event in read_events(folder) if event["event"] == "calibration"]
    return from_calibration(config, calibrations[-1], real) if calibrations else None


def from_calibration(config: Config, event: dict[str, Any], real: int) -> Rates:
    """The rates of a `calibration` event: seconds of a train step for each number of workers, mixes
    per second of a mixer.
    """
    steps = train_images(config, real) / config.train.batch_size
    return Rates(
        event["mixer"],
        {int(workers): steps * seconds for workers, seconds in event["step_seconds"].items()},
        "calibrated",
    )
