"""Which images are held out or kept: pure functions of labels and a seed.

Each class draws from its own generator, so the outcome for one class does not depend on the others.
Returned indices are sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64

from diffmix.config import DataConfig
from diffmix.datasets.account import some
from diffmix.datasets.raw import FewShot


def _shuffled_classes(
    labels: Int[np.ndarray, " n"], seed: int
) -> Iterator[tuple[Int64[np.ndarray, " members"], np.random.Generator]]:
    for label in np.unique(labels):
        rng = np.random.default_rng([seed, int(label)])
        yield rng.permutation(np.flatnonzero(labels == label)), rng


def stratified(
    labels: Int[np.ndarray, " n"], fraction: float, seed: int, keep: int = 1
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Indices (kept, held out), with `fraction` (0 to below 1) of each class held out, rounded.

    A class gives at least one image, but keeps at least `keep` images, or all that it has. A
    fraction of 0 holds nothing out.
    """
    held_out: list[int] = []
    if fraction > 0:
        for members, _ in _shuffled_classes(labels, seed):
            count = min(max(round(fraction * len(members)), 1), len(members) - keep)
            held_out += members[: max(count, 0)].tolist()
    held = np.sort(np.array(held_out, dtype=np.int64))
    return np.setdiff1d(np.arange(len(labels)), held), held


def left_over(
    labels: Int[np.ndarray, " n"], drawn: Int64[np.ndarray, " drawn"], fraction: float, seed: int
) -> Int64[np.ndarray, " held"]:
    """Indices to hold out after others were drawn: `fraction` of each class's size, rounded and at
    least one, but at most what is left.

    They come from the end of the order in which shots are drawn, so that one and five shots of a
    class have the same held-out images where there are enough.
    """
    held_out: list[int] = []
    if fraction > 0:
        for members, _ in _shuffled_classes(labels, seed):
            left = members[~np.isin(members, drawn)][::-1]
            held_out += left[: max(round(fraction * len(members)), 1)].tolist()
    return np.sort(np.array(held_out, dtype=np.int64))


def few_shot(labels: Int[np.ndarray, " n"], shots: int, seed: int) -> Int64[np.ndarray, " chosen"]:
    """Indices of `shots` images of every class.

    A class with fewer images is drawn from with replacement, as in the reference code, so an index
    can occur several times. For one seed, the images of fewer shots are among those of more.
    """
    chosen: list[int] = []
    for members, rng in _shuffled_classes(labels, seed):
        drawn = (
            members[:shots] if len(members) >= shots else rng.choice(members, shots, replace=True)
        )
        chosen += drawn.tolist()
    return np.sort(np.array(chosen, dtype=np.int64))


def long_tail(
    labels: Int[np.ndarray, " n"], imbalance_factor: float, seed: int
) -> Int64[np.ndarray, " chosen"]:
    """Indices of a long-tailed part of labels of C classes; the factor is above 0 and at most 1.

    The i-th largest class (from 0; of equal classes the lower label first) keeps floor(mean count *
    factor ** (i / (C - 2))) of its images, at least 1 and at most all. C - 2 is the reference
    code's; with two classes it is taken as 1.
    """
    classes, counts = np.unique(labels, return_counts=True)
    rank = {int(classes[place]): i for i, place in enumerate(np.argsort(-counts, kind="stable"))}
    mean = len(labels) / max(len(classes), 1)
    chosen: list[int] = []
    for members, _ in _shuffled_classes(labels, seed):
        size = mean * imbalance_factor ** (rank[int(labels[members[0]])] / max(len(classes) - 2, 1))
        chosen += members[: max(int(size), 1)].tolist()
    return np.sort(np.array(chosen, dtype=np.int64))


@dataclass(kw_only=True)
class Choice:
    """Which images form each set, and what the user should know about it."""

    chosen: dict[str, tuple[str, Int64[np.ndarray, " _"]]]
    """For each set that is written: the split that it comes from, and its indices there."""
    not_drawn: Int64[np.ndarray, " not_drawn"]
    """Indices of training images that are in no set."""
    notes: list[str]


def choose(
    config: DataConfig,
    labels: dict[str, Int[np.ndarray, " _"]],
    class_names: list[str],
    draw: FewShot = few_shot,
    held_out_first: bool = False,
) -> Choice:
    """The sets `train`, `val` and `test` from the labels of the splits that there are.

    Without test images, a part of each class becomes the test set; it leaves `shots` images to each
    class. Then shots or a long tail are drawn from all training images of a class, and validation
    images from what is left. With neither, validation images come first.

    `draw` draws shots. `held_out_first`: validation images always come first, as in run folders of
    an older version.
    """
    notes: list[str] = []
    rest = np.arange(len(labels["train"]))
    chosen = {name: (name, np.arange(len(labels[name]))) for name in labels}
    if "test" not in labels:
        keep = 1 if held_out_first else config.shots or 1
        kept, held = stratified(labels["train"], config.test_fraction, config.seed, keep)
        chosen["test"], rest = ("train", held), kept
    source, held = chosen["test"]
    notes += _without(labels[source][held], class_names, "test images")
    all_training = rest
    few = config.shots is not None or config.imbalance_factor is not None
    draws_val = "val" not in labels and config.val_fraction > 0
    if draws_val and (held_out_first or not few):
        kept, held = stratified(labels["train"][rest], config.val_fraction, config.seed)
        chosen["val"], rest = ("train", rest[held]), rest[kept]
    train = rest
    if config.imbalance_factor is not None:
        train = rest[long_tail(labels["train"][rest], config.imbalance_factor, config.seed)]
    elif config.shots is not None:
        train = rest[draw(labels["train"][rest], config.shots, config.seed)]
        notes += _repeated(labels["train"][rest], config.shots, class_names)
    if draws_val and "val" not in chosen:
        drawn = np.flatnonzero(np.isin(rest, train))
        held = left_over(labels["train"][rest], drawn, config.val_fraction, config.seed)
        chosen["val"] = ("train", rest[held])
    if draws_val:
        notes += _without(labels["train"][chosen["val"][1]], class_names, "validation images")
    used = np.concatenate([train, chosen["val"][1]]) if draws_val else train
    chosen["train"] = ("train", train)
    return Choice(chosen=chosen, not_drawn=np.setdiff1d(all_training, used), notes=notes)


def _without(held: Int[np.ndarray, " held"], class_names: list[str], what: str) -> list[str]:
    """A sentence about the classes that have none of the held-out images."""
    present = set(held.tolist())
    lacking = [name for label, name in enumerate(class_names) if label not in present]
    if not lacking:
        return []
    if len(lacking) == len(class_names):
        return [f"no images are left for {what}, so there are none"]
    return [f"{len(lacking)} of {len(class_names)} classes have no {what}: {some(lacking)}"]


def _repeated(labels: Int[np.ndarray, " n"], shots: int, class_names: list[str]) -> list[str]:
    """A sentence about the classes with fewer images than shots."""
    counts = np.bincount(labels, minlength=len(class_names))
    fewer = np.flatnonzero(counts < shots).tolist()
    if not fewer:
        return []
    return [
        f"{len(fewer)} of {len(class_names)} classes have fewer than {shots} images, so theirs are "
        f"drawn with replacement: {some([class_names[label] for label in fewer])}"
    ]
