"""Accuracy of a classifier's logits: over all, per class and per group."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader

from diffmix.classifier.model import Classifier
from diffmix.classifier.samples import EvalSamples
from diffmix.classifier.transforms import eval_transform
from diffmix.datasets.real import RealSet


@torch.inference_mode()
def predict(
    model: torch.nn.Module,
    description: Classifier,
    real: RealSet,
    rows: np.ndarray | None = None,
    batch_size: int = 64,
    loader_workers: int = 0,
) -> np.ndarray:
    """float32 logits [len(rows), num_classes] for rows of a real set (None: all), in the rows' order. Leaves the model in eval mode."""
    model.eval()
    parameter = next(model.parameters())
    samples = EvalSamples(real, eval_transform(description), rows)
    context = "forkserver" if loader_workers else None
    loader = DataLoader(samples, batch_size=batch_size, num_workers=loader_workers, multiprocessing_context=context)
    logits = [model(images.to(parameter.device, parameter.dtype)).float().cpu().numpy() for images, _ in loader]
    return np.concatenate(logits) if logits else np.empty((0, len(description.class_names)), dtype=np.float32)


def accuracy(logits: np.ndarray, labels: np.ndarray, groups: list[str | None] | None = None) -> dict:
    """`top1`, `top5` (shares of 0..1), `per_class` {index: share} and, where there are groups, `per_group` and `worst_group`.

    `logits` [N, C], `labels` int [N]. With fewer than five classes top-5 counts all of them.
    """
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    first = best[:, 0] == labels
    result: dict = {
        "top1": float(first.mean()),
        "top5": float((best == labels[:, None]).any(1).mean()),
        "per_class": {int(label): float(first[labels == label].mean()) for label in np.unique(labels)},
    }
    if groups and any(group is not None for group in groups):
        names = np.array([group or "none" for group in groups])
        result["per_group"] = {str(name): float(first[names == name].mean()) for name in np.unique(names)}
        result["worst_group"] = min(result["per_group"].values())
    return result
