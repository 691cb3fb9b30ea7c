"""TensorBoard's files, in the run folder: `tensorboard --logdir OUT/tensorboard`."""

from __future__ import annotations

import tempfile
import time

import numpy as np

from diffmix import images
from diffmix.config import Config
from diffmix.storage import Folder
from engine.trackers.figures import Figures, mixes, options

FOLDER = "tensorboard"
_UPLOAD_SECONDS = 60.0


class TensorBoard:
    """A listener that writes TensorBoard's files into OUT/tensorboard: at once on a disk, once a
    minute in an object store. Owned by the run's session.
    """

    def __init__(self, config: Config, out: Folder):
        from tensorboardX import SummaryWriter

        self._out, self._figures = out, Figures()
        self._folder = out / FOLDER
        self._local = self._folder.path
        if not out.is_local:
            self._local = tempfile.mkdtemp(prefix="diffmix-tensorboard-")
        self._writer = SummaryWriter(self._local, flush_secs=5)
        rows = [f"| {name} | {value} |" for name, value in options(config).items()]
        self._writer.add_text("options", "\n".join(["| option | value |", "| --- | --- |", *rows]))
        self._uploaded = time.monotonic()

    def on_events(self, events: list[dict]) -> None:
        for figure in self._figures.of(events):
            self._writer.add_scalar(figure.name, figure.value, figure.step)
        if time.monotonic() - self._uploaded >= _UPLOAD_SECONDS:
            self._upload()

    def close(self) -> None:
        for number, shown in enumerate(mixes(self._out)):
            pixels = np.asarray(images.decode(shown.file))
            self._writer.add_image(f"mixes/{number:02d}", pixels, dataformats="HWC")
            self._writer.add_text(f"mixes/{number:02d}", shown.caption)
        self._writer.close()
        self._upload()

    def _upload(self) -> None:
        self._uploaded = time.monotonic()
        if not self._out.is_local:
            self._writer.flush()
            self._folder.upload(self._local)
