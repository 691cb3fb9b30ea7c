"""What a classifier's logits are worth: accuracy over all, per class, group and class size;
confusion; calibration.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader

from diffmix.classifier.model import Classifier
from diffmix.classifier.samples import EvalSamples
from diffmix.classifier.transforms import eval_transform
from diffmix.datasets.real import RealSet


@torch.no_grad()  # not inference mode: ZeRO 3 gathers weights in here that training then uses
def predict(
    model: torch.nn.Module,
    description: Classifier,
    real: RealSet,
    rows: np.ndarray | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """float32 logits [len(rows), num_classes] for rows of a real set (None: all), in the rows'
    order. Leaves the model in eval mode.
    """
    model.eval()
    parameter = next(model.parameters())
    samples = EvalSamples(real, eval_transform(description), rows)
    loader = DataLoader(samples, batch_size=batch_size)
    logits = [
        model(images.to(parameter.device, parameter.dtype)).float().cpu().numpy()
        for images, _ in loader
    ]
    return (
        np.concatenate(logits)
        if logits
        else np.empty((0, len(description.class_names)), dtype=np.float32)
    )


def accuracy(
    logits: np.ndarray, labels: np.ndarray, groups: list[str | None] | None = None
) -> dict:
    """`top1`, `top5` (shares of 0..1), `per_class` {index: share} and, where there are groups,
    `per_group` and `worst_group`.

    `logits` [N, C], `labels` int [N]. With fewer than five classes top-5 counts all of them.
    """
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    first = best[:, 0] == labels
    result: dict = {
        "top1": float(first.mean()),
        "top5": float((best == labels[:, None]).any(1).mean()),
        "per_class": {
            int(label): float(first[labels == label].mean()) for label in np.unique(labels)
        },
    }
    if groups and any(group is not None for group in groups):
        names = np.array([group or "none" for group in groups])
        result["per_group"] = {
            str(name): float(first[names == name].mean()) for name in np.unique(names)
        }
        result["worst_group"] = min(result["per_group"].values())
    return result


def by_class_size(
    per_class: dict, class_sizes: np.ndarray, many_above: int, few_below: int
) -> dict[str, float]:
    """Mean accuracy of the classes that have `many`, `medium` or `few` training images; empty where
    all classes are of one kind.

    `per_class` is `accuracy`'s {class: share} (keys may be JSON's strings), `class_sizes` int [C]
    counts training images. As in the reference each class counts once, however many test images it
    has.
    """
    found: dict[str, list[float]] = {}
    for label, share in per_class.items():
        size = class_sizes[int(label)]
        kind = "many" if size > many_above else "few" if size < few_below else "medium"
        found.setdefault(kind, []).append(share)
    return (
        {kind: float(np.mean(found[kind])) for kind in ("many", "medium", "few") if kind in found}
        if len(found) > 1
        else {}
    )


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64 [C, C]: how many images of class i were taken for class j. `logits` [N, C], `labels`
    int [N].
    """
    num_classes = logits.shape[1]
    pairs = labels.astype(np.int64) * num_classes + logits.argmax(1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> dict:
    """`ece`, the expected calibration error, and the `bins` it is made of (Guo et al., ICML 2017).

    Images are put into bins of equal width (i/n, (i+1)/n] by their highest softmax probability;
    each bin that holds any has `confidence` (mean), `accuracy` and `images`. `ece` is the mean of
    |accuracy - confidence| weighted by the images, 0 to 1.
    """
    from scipy.special import softmax

    confidence = softmax(logits.astype(np.float64), axis=1).max(1)
    right = logits.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found = [
        {
            "confidence": float(confidence[held].mean()),
            "accuracy": float(right[held].mean()),
            "images": int(held.sum()),
        }
        for held in (place == number for number in range(bins))
        if held.any()
    ]
    ece = sum(one["images"] * abs(one["accuracy"] - one["confidence"]) for one in found) / max(
        len(labels), 1
    )
    return {"ece": ece, "bins": found}
