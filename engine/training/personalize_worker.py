"""Personalization on Ray Train: one worker or many, with checkpoints that another attempt goes on
from.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray.train

from diffmix.config import Config
from diffmix.datasets.real import RealSet
from diffmix.devices import limit_threads
from diffmix.storage import Folder
from engine.telemetry import Reporter

if TYPE_CHECKING:
    import torch

_REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class PersonalizeJob:
    """What a personalization worker needs to know."""

    config: Config
    real: str
    """Path or URI of the training `RealSet`."""
    concept: str
    """Folder that the concept goes to."""
    prior: str
    """Folder of prior preservation's images, which outlive an attempt."""
    reporter: Reporter


def personalize_loop(settings: dict) -> None:
    """Run by every worker; `settings["job"]` is a `PersonalizeJob`. Rank 0 writes the concept
    folder at the end.
    """
    from diffmix.generator.concept import CONCEPT_FILE
    from diffmix.personalize.large_batch import folded
    from diffmix.personalize.train import train_concept

    job: PersonalizeJob = settings["job"]
    config = job.config
    limit_threads(config.placement.cpus_per_trainer)
    context = ray.train.get_context()
    rank = context.get_world_rank()
    last = time.monotonic()
    steps = folded(config.personalize).steps

    def on_step(done: int, loss: torch.Tensor) -> None:
        nonlocal last
        if rank == 0 and (time.monotonic() - last >= _REPORT_SECONDS or done == steps):
            last = time.monotonic()
            job.reporter.send("personalize_step", step=done, steps=steps, loss=loss.item())

    def on_checkpoint(folder: Path | None, done: int) -> None:
        ray.train.report(
            {"step": done},
            checkpoint=ray.train.Checkpoint.from_directory(folder) if folder else None,
        )

    def train(resume_from: str | None) -> None:
        out = Folder(job.concept)
        local = (
            out.path if out.is_local else tempfile.mkdtemp(prefix="diffmix-concept-") + "/concept"
        )
        train_concept(
            config.model,
            config.personalize,
            RealSet.open(job.real),
            local,
            config.run.seed,
            rank=rank,
            world_size=context.get_world_size(),
            prior=Folder(job.prior),
            resume_from=resume_from,
            on_checkpoint=on_checkpoint,
            on_step=on_step,
        )
        if rank == 0 and not out.is_local:
            # Its description last: where it is, the weights are too.
            description = Path(local, CONCEPT_FILE)
            text = description.read_bytes()
            description.unlink()
            out.upload(local)
            out.write(CONCEPT_FILE, text)

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        train(None)
    else:
        with checkpoint.as_directory() as folder:
            train(folder)
