"""How many GPUs mix and how many train: predicted from rates that a run has measured, or a short
calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffmix.classifier.schedule import Schedule
from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.listeners import METRICS_FILE
from engine.run_folder import read_json
from engine.telemetry import read_events

_WORTH = 1.01
"""A split that takes more GPUs has to be this much faster than the next smaller one."""
_ROUNDING = 1e-9  # sums of fractions of GPUs


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


@dataclass(frozen=True, kw_only=True)
class GpuShare:
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
    """GPUs at the peak."""


def predict(config: Config, rates: Rates, planned: int, mixers: int, trainers: int) -> GpuShare:
    """What this many mixers and train workers take for `planned` mixes.

    Mixing scales with the mixers. Overlapped training starts when the share `run.train_after` of
    the mixes is there.
    """
    placement = config.placement
    generate, train = planned / (rates.mixer * mixers), rates.train_seconds[trainers]
    mixing = mixers * placement.gpus_per_mixer
    training = trainers * placement.gpus_per_trainer
    if config.run.mode == "staged":
        wall, gpus = generate + train, max(mixing, training)
    else:
        wall = max(generate, config.run.train_after * generate + train)
        gpus = mixing + training
    return GpuShare(
        mixers=mixers, trainers=trainers, generate=generate, train=train, wall=wall, gpus=gpus
    )


def choose(config: Config, rates: Rates, planned: int, gpus: float) -> GpuShare:
    """The fastest split of at most `gpus`, with the fewest GPUs that reach its time. `UserError`
    where none fits.

    Of two splits whose times differ by less than 1 %, the one with fewer GPUs is better: GPUs that
    only wait cost money.
    """
    placement = config.placement
    most = placement.mixers[-1]
    if placement.gpus_per_mixer:
        most = int(gpus / placement.gpus_per_mixer)
    possible = []
    for trainers in rates.train_seconds:
        if config.train.batch_size % trainers:
            continue
        for mixers in range(1, most + 1):
            share = predict(config, rates, planned, mixers, trainers)
            if share.gpus <= gpus + _ROUNDING:
                possible.append(share)
    if not possible:
        raise UserError(
            f"{gpus:g} GPUs are too few for a mixer and a train worker; add nodes or lower "
            "--placement.gpus_per_mixer."
        )
    fastest = min(share.wall for share in possible)
    fast = [share for share in possible if share.wall <= fastest * _WORTH]
    return min(fast, key=lambda share: (share.gpus, share.wall))


def train_images(config: Config, real: int) -> int:
    """Samples that the whole training draws for `real` images, on one worker."""
    return config.train.epochs * Schedule(config.train, real).samples


def measured(config: Config, out: Folder, real: int) -> Rates | None:
    """The rates of the last run in `placement.measured`, else in the run folder `out`: from its
    `summary.json`, else from its calibration. None where it has neither. `real` is the number of
    training images. Raises `UserError` where `placement.measured` is no run folder.
    """
    given = config.placement.measured
    folder = Folder(given) if given else out
    if given and not (folder.exists("summary.json") or folder.exists(METRICS_FILE)):
        raise UserError(
            f"--placement.measured {given} holds no measured rates (neither summary.json nor "
            f"{METRICS_FILE}); set it to a folder that diffmix run has filled."
        )
    if folder.exists("summary.json"):
        summary = read_json(folder, "summary.json")
        mixer, trainer = summary["mixer"].get("images_per_busy_second"), summary["trainer"]
        if mixer and trainer.get("workers") and trainer["images_per_second"]:
            seconds = train_images(config, real) / trainer["images_per_second"]
            return Rates(mixer, {trainer["workers"]: seconds}, f"measured in {folder.uri}")
    calibrations = [event for event in read_events(folder) if event["event"] == "calibration"]
    return from_calibration(config, calibrations[-1], real) if calibrations else None


def from_calibration(config: Config, event: dict[str, Any], real: int) -> Rates:
    """The rates of a `calibration` event, which has the seconds of a train step for each number of
    workers, and the mixes per second of a mixer.
    """
    steps = train_images(config, real) / config.train.batch_size
    train_seconds = {}
    for workers, seconds in event["step_seconds"].items():
        train_seconds[int(workers)] = steps * seconds
    return Rates(event["mixer"], train_seconds, "calibrated")
