"""Weights & Biases: `pip install wandb`, and its own variables (`WANDB_MODE=offline`, ...)."""

from __future__ import annotations

from diffmix import images
from diffmix.config import Config
from diffmix.storage import Folder
from engine.trackers.figures import Figures, mixes, options
from engine.trackers.optional import required


class WandB:
    """A listener that makes one W&B run of a run folder: options, metrics, and mixes as images.
    Owned by the run's session.
    """

    def __init__(self, config: Config, out: Folder):
        self._wandb = required("wandb", "wandb")
        self._out, self._figures = out, Figures()
        self._run = self._wandb.init(
            project="diffmix", name=out.uri.rstrip("/").rpartition("/")[2], config=options(config)
        )
        # Each metric has steps of its own: W&B's own step may only rise.
        self._run.define_metric("*", step_metric="step")

    def on_events(self, events: list[dict]) -> None:
        for name, value, step in self._figures.of(events):
            self._run.log({name: value, "step": step})

    def close(self) -> None:
        shown = []
        for caption, file in mixes(self._out):
            shown.append(self._wandb.Image(images.decode(file), caption=caption))
        if shown:
            self._run.log({"mixes": shown})
        self._run.finish()
