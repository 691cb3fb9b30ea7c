"""What a finished classifier reaches on a set of images."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from diffmix.classifier import metrics
from diffmix.classifier.model import load_classifier
from diffmix.datasets.real import RealSet
from diffmix.storage import Folder


def evaluate_folder(
    classifier: str, test_path: str | None, device: str = "cpu", batch_size: int = 64
) -> tuple[dict, Int[np.ndarray, "classes classes"] | None]:
    """What the classifier in a folder reaches on a `RealSet`, and its confusion matrix
    (`metrics.confusion`). Without a set: how its epoch was chosen, and None.

    The dictionary is that of `metrics.accuracy`, with `calibration`, `images` (their number) and
    `chosen` (how its epoch was chosen). `UserError` where the folder holds no classifier.
    """
    model, description = load_classifier(Folder(classifier), device)
    if not test_path:
        return {"chosen": description.metrics}, None
    real = RealSet.open(test_path)
    logits = metrics.predict(model, description, real, batch_size=batch_size)
    result = {"chosen": description.metrics, **metrics.accuracy(logits, real.labels, real.groups)}
    result |= {"calibration": metrics.calibration(logits, real.labels), "images": len(real)}
    return result, metrics.confusion(logits, real.labels)
