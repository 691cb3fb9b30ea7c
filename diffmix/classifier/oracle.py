"""The oracle: a classifier that judges which share of the mixes shows its target class."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import torch

from diffmix import images
from diffmix.classifier.model import load_classifier, load_description, packaged_or_folder
from diffmix.classifier.transforms import eval_transform
from diffmix.errors import UserError


def check_oracle(oracle: str, class_names: list[str]) -> None:
    """Raise `UserError` where `oracle` is no classifier or does not know one of the classes, before
    anything large is loaded.
    """
    known = load_description(packaged_or_folder(oracle)).class_names
    missing = sorted(set(class_names) - set(known))
    if missing:
        raise UserError(
            f"The oracle {oracle} does not know the class {missing[0]}; leave out --run.oracle."
        )


@torch.inference_mode()
def oracle_share(
    oracle: str, tables: Iterable[pa.Table], class_names: list[str], device: str = "cpu"
) -> float:
    """Share of mixes whose most probable class is their target class, in [0, 1]; 0 without mixes.

    `oracle` is the folder of a classifier, or `nano`. `tables` have the columns `image` (encoded
    files) and `target_label` (indices into `class_names`). Raises `UserError` if the oracle does
    not know one of the classes.
    """
    check_oracle(oracle, class_names)
    model, description = load_classifier(packaged_or_folder(oracle), device)
    own = torch.tensor([description.class_names.index(name) for name in class_names])
    transform = eval_transform(description)
    right = total = 0
    for table in filter(len, tables):
        batch = torch.stack([transform(images.decode(data)) for data in table["image"].to_pylist()])
        target = own[torch.tensor(table["target_label"].to_pylist())]
        right += int((model(batch.to(device)).argmax(1).cpu() == target).sum())
        total += len(target)
    return right / total if total else 0.0
