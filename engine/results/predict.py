"""`diffmix predict`: what a run's classifier says of images without labels. Needs no cluster."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from diffmix import images
from diffmix.errors import UserError
from diffmix.storage import Folder

_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
_BATCH = 64


class Prediction(NamedTuple):
    """What the classifier says of one image."""

    path: str
    """Of the image, below the folder."""
    probabilities: Float32[np.ndarray, " classes"]
    """They sum to 1. Empty where the image could not be read."""
    error: str = ""
    """Why the image could not be read."""


class Predictor:
    """The classifier of a finished run.

    predictor = Predictor("runs/birds")
    for prediction in predictor.folder("new_photos"):
        print(prediction.path, predictor.class_names[prediction.probabilities.argmax()])
    """

    def __init__(self, out: str, device: str | None = None):
        """`out` is a run folder, path or URI; `device` None: a GPU where there is one. `UserError`
        where it holds no classifier.
        """
        from diffmix.classifier.model import load_classifier
        from diffmix.classifier.transforms import eval_transform
        from diffmix.devices import inference_device

        classifier = Folder(out) / "classifier"
        if not out or not classifier.exists("model.json"):
            raise UserError(
                f"{out or 'The run folder'} holds no classifier; set --out to a folder that "
                "`diffmix run` or `diffmix train` has finished."
            )
        self._model, description = load_classifier(classifier, device or inference_device())
        self._model.eval()
        self._transform = eval_transform(description)
        self.class_names: list[str] = description.class_names
        """By label."""

    def folder(self, folder: str) -> Iterator[Prediction]:
        """Predictions for the images below a folder of this machine, by path. `UserError` where
        there is no image.
        """
        root = Path(folder)
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in _ENDINGS)
        if not paths:
            raise UserError(f"{folder} has no images; set --data.test to a folder with some.")
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            yield from self._files([(str(path.relative_to(root)), path) for path in batch])

    def _files(self, batch: list[tuple[str, Path]]) -> Iterator[Prediction]:
        import torch

        read, errors = {}, {}
        for name, path in batch:
            try:
                read[name] = self._transform(images.decode(path.read_bytes()))
            except (images.BadImage, OSError) as error:
                errors[name] = str(error)
        shares: dict[str, np.ndarray] = {}
        if read:
            parameter = next(self._model.parameters())
            stacked = torch.stack(list(read.values())).to(parameter.device, parameter.dtype)
            with torch.inference_mode():
                found = self._model(stacked).float().softmax(1).cpu().numpy()
            shares = dict(zip(read, found, strict=True))
        empty = np.empty(0, dtype=np.float32)
        for name, _ in batch:
            yield Prediction(name, shares.get(name, empty), errors.get(name, ""))


def predict(out: str, folder: str) -> tuple[str, int, int]:
    """The predictions for a folder as the text of a CSV file, the number of images, and how many of
    them could not be read.

    Columns: `image`, `class`, `probability`, one for each class's probability, `error`.
    """
    predictor = Predictor(out)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "probability", *predictor.class_names, "error"])
    found = list(predictor.folder(folder))
    for one in found:
        if one.error:
            blank = [""] * (2 + len(predictor.class_names))
            writer.writerow([one.path, *blank, one.error])
            continue
        best = int(one.probabilities.argmax())
        shares = [f"{share:.6f}" for share in one.probabilities]
        writer.writerow([one.path, predictor.class_names[best], shares[best], *shares, ""])
    return text.getvalue(), len(found), sum(bool(one.error) for one in found)
