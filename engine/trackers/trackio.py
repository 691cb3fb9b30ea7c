"""trackio, Hugging Face's local tracker: `pip install trackio`, then `trackio show`."""

from __future__ import annotations

from diffmix import images
from diffmix.config import Config
from diffmix.storage import Folder
from engine.trackers.figures import Figures, mixes, options
from engine.trackers.optional import required


class Trackio:
    """A listener that makes one trackio run of a run folder: options, metrics, and mixes as images.
    Owned by the run's session.
    """

    def __init__(self, config: Config, out: Folder):
        self._trackio = required("trackio", "trackio")
        self._out, self._figures = out, Figures()
        self._run = self._trackio.init(
            project="diffmix",
            name=out.uri.rstrip("/").rpartition("/")[2],
            config=options(config),
            embed=False,
        )

    def on_events(self, events: list[dict]) -> None:
        for name, value, step in self._figures.of(events):
            self._run.log({name: value}, step=step)

    def close(self) -> None:
        import numpy as np

        for number, (caption, file) in enumerate(mixes(self._out)):
            shown = self._trackio.Image(np.asarray(images.decode(file)), caption=caption)
            self._run.log({"mixes": shown}, step=number)
        self._run.finish()
