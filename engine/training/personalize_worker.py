"""Personalization on Ray Train: one worker or many, with checkpoints that another attempt resumes
from.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray.train

from diffmix.config import Config
from diffmix.datasets.real import RealSet
from diffmix.devices import take_share
from diffmix.storage import Folder
from engine.failures import fitting_in_memory
from engine.nodes.shared_folder import Marker
from engine.telemetry import Reporter
from engine.worker_group.start import begin

if TYPE_CHECKING:
    import torch

_REPORT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class PersonalizeJob:
    """What a personalization worker needs to know."""

    config: Config
    real_path: str
    """Path or URI of the training `RealSet`."""
    concept: str
    """Path or URI of the folder for the concept."""
    prior: str
    """Path or URI of the folder for prior preservation's images, which outlive an attempt."""
    reporter: Reporter
    marker: Marker | None = None
    """By which a worker knows the run folder; None where nothing is to be looked for."""


def personalize_loop(settings: dict) -> None:
    """Ray Train runs this on every worker. `settings["job"]` is a `PersonalizeJob`. Rank 0 writes
    the concept folder at the end.
    """
    job: PersonalizeJob = settings["job"]
    begin("personalize", job)
    from diffmix.personalize.large_batch import folded
    from diffmix.personalize.train import Attempt, train_concept

    config = job.config
    take_share(config.placement.cpus_per_trainer, config.placement.gpus_per_trainer)
    context = ray.train.get_context()
    rank = context.get_world_rank()
    steps = folded(config.personalize).steps
    last_report = time.monotonic()

    def on_step(done: int, loss: torch.Tensor) -> None:
        nonlocal last_report
        if rank == 0 and (time.monotonic() - last_report >= _REPORT_SECONDS or done == steps):
            last_report = time.monotonic()
            job.reporter.send("personalize_step", step=done, steps=steps, loss=loss.item())

    def on_checkpoint(folder: Path | None, done: int) -> None:
        kept = ray.train.Checkpoint.from_directory(folder) if folder else None
        ray.train.report({"step": done}, checkpoint=kept)

    def on_note(text: str) -> None:
        job.reporter.send("note", text=text)

    out = Folder(job.concept)
    local = out.path if out.is_local else tempfile.mkdtemp(prefix="diffmix-concept-") + "/concept"
    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else contextlib.nullcontext() as resume_from:
        attempt = Attempt(
            rank=rank,
            world_size=context.get_world_size(),
            prior=Folder(job.prior),
            resume_from=resume_from,
            on_checkpoint=on_checkpoint,
            on_step=on_step,
            on_note=on_note,
        )
        real = RealSet.open(job.real_path)
        with fitting_in_memory("Personalization", "lower --personalize.batch_size or large_batch"):
            train_concept(config.model, config.personalize, real, local, config.run.seed, attempt)
    if rank == 0 and not out.is_local:
        _upload(local, out)


def _upload(local: str, out: Folder) -> None:
    """Copy a concept folder. Its description goes last: where it is, the weights are complete."""
    from diffmix.generator.concept import CONCEPT_FILE

    description = Path(local, CONCEPT_FILE)
    text = description.read_bytes()
    description.unlink()
    out.upload(local)
    out.write(CONCEPT_FILE, text)
