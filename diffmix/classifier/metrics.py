"""Accuracy (overall, per class, per group, per class size), confusion and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch.utils.data import DataLoader

from diffmix.classifier.model import Classifier, load_classifier
from diffmix.classifier.samples import EvalSamples
from diffmix.classifier.transforms import Normalize, eval_transform
from diffmix.datasets.real import RealSet
from diffmix.storage import Folder


def predict(
    model: torch.nn.Module,
    description: Classifier,
    real: RealSet,
    rows: Int[np.ndarray, " images"] | None = None,
    batch_size: int = 64,
    workers: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Float32[np.ndarray, "images classes"]:
    """Logits for `rows` of a real set, in their order. Without `rows`, for all of it. `workers` are
    processes that decode images for this call.

    The model, float32, computes in autocast of `dtype`. Leaves it in eval mode.
    """
    batches = eval_loader(description, real, rows, batch_size, workers)
    return predict_all(model, description, batches, dtype)


def eval_loader(
    description: Classifier,
    real: RealSet,
    rows: Int[np.ndarray, " images"] | None,
    batch_size: int,
    workers: int,
) -> DataLoader:
    """Batches of images as bytes, and their rows. Its `workers` stay for further passes."""
    return DataLoader(
        EvalSamples(real, eval_transform(description, as_bytes=True), rows),
        batch_size=batch_size,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


# Not inference mode: ZeRO 3 gathers weights here that training uses afterwards.
@torch.no_grad()
def predict_all(
    model: torch.nn.Module,
    description: Classifier,
    batches: Iterable,
    dtype: torch.dtype = torch.float32,
) -> Float32[np.ndarray, "images classes"]:
    """The same for the batches of `eval_loader`."""
    model.eval()
    device = next(model.parameters()).device
    normalize = Normalize(description, device)
    # An empty first batch gives an empty set its shape.
    logits = [torch.empty(0, len(description.class_names), device=device)]
    for images, _ in batches:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits.append(model(normalize(images)).float())
    return torch.cat(logits).cpu().numpy()


def accuracy(
    logits: Float[np.ndarray, "images classes"],
    labels: Int[np.ndarray, " images"],
    groups: list[str | None] | None = None,
) -> dict:
    """`top1`, `top5` and `per_class` {label: share}; with groups, `per_group` and `worst_group`.

    All are shares in [0, 1]. Classes without an image are left out of `per_class`. With fewer than
    five classes, `top5` counts all of them. Images without a group form the group "none".
    """
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    right = best[:, 0] == labels
    result: dict = {
        "top1": float(right.mean()),
        "top5": float((best == labels[:, None]).any(1).mean()),
        "per_class": {
            int(label): float(right[labels == label].mean()) for label in np.unique(labels)
        },
    }
    if groups and any(group is not None for group in groups):
        names = np.array([group or "none" for group in groups])
        result["per_group"] = {
            str(name): float(right[names == name].mean()) for name in np.unique(names)
        }
        result["worst_group"] = min(result["per_group"].values())
    return result


def by_class_size(
    per_class: dict, class_sizes: Int[np.ndarray, " classes"], many_above: int, few_below: int
) -> dict[str, float]:
    """Mean accuracy of the classes with `many`, `medium` and `few` training images, in [0, 1].

    `per_class` is that of `accuracy`; its keys may be strings, as in JSON. `class_sizes` counts the
    training images. Each class counts once, however many test images it has, as in the reference
    implementation. The result is empty if all classes are of one kind.
    """
    shares: dict[str, list[float]] = {}
    for label, share in per_class.items():
        size = class_sizes[int(label)]
        kind = "many" if size > many_above else "few" if size < few_below else "medium"
        shares.setdefault(kind, []).append(share)
    if len(shares) < 2:
        return {}
    kinds = [kind for kind in ("many", "medium", "few") if kind in shares]
    return {kind: float(np.mean(shares[kind])) for kind in kinds}


def confusion(
    logits: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"]
) -> Int64[np.ndarray, "classes classes"]:
    """How many images of class i (row) were taken for class j (column)."""
    num_classes = logits.shape[1]
    pairs = labels.astype(np.int64) * num_classes + logits.argmax(1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def calibration(
    logits: Float[np.ndarray, "images classes"],
    labels: Int[np.ndarray, " images"],
    bins: int = 15,
) -> dict:
    """`ece`, the expected calibration error in [0, 1], and the `bins` that it is computed from.

    Guo et al., ICML 2017. The highest softmax probability of an image decides its bin; bins have
    equal width, (i/n, (i+1)/n]. Each bin that is not empty has its mean `confidence`, its
    `accuracy` and its number of `images`. `ece` is the mean of |accuracy - confidence|, weighted by
    the images.
    """
    from scipy.special import softmax

    confidence = softmax(logits.astype(np.float64), axis=1).max(1)
    right = logits.argmax(1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    filled: list[dict] = []
    error = 0.0
    for number in np.unique(bin_of):
        held = bin_of == number
        one = {
            "confidence": float(confidence[held].mean()),
            "accuracy": float(right[held].mean()),
            "images": int(held.sum()),
        }
        error += one["images"] * abs(one["accuracy"] - one["confidence"])
        filled.append(one)
    return {"ece": error / max(len(labels), 1), "bins": filled}


def evaluate_folder(
    classifier: str,
    test_path: str | None,
    device: str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    keep: Callable[[np.ndarray], None] = lambda logits: None,
) -> tuple[dict, Int[np.ndarray, "classes classes"] | None]:
    """What the classifier in a folder reaches on a `RealSet`, and its confusion matrix
    (`confusion`). Without a set: how its epoch was chosen, and None.

    The dictionary is that of `accuracy`, with `calibration`, `images` (their number) and
    `chosen` (how its epoch was chosen). `keep` gets the logits, float32 [images, classes];
    `workers` as in `predict`.
    `UserError` where the folder holds no classifier.
    """
    model, description = load_classifier(Folder(classifier), device)
    if not test_path:
        return {"chosen": description.metrics}, None
    real = RealSet.open(test_path)
    logits = predict(model, description, real, batch_size=batch_size, workers=workers)
    keep(logits)
    result = {"chosen": description.metrics, **accuracy(logits, real.labels, real.groups)}
    result |= {"calibration": calibration(logits, real.labels), "images": len(real)}
    return result, confusion(logits, real.labels)
