"""Which images are held out or kept: pure functions of labels and a seed.

Each class draws from a generator of its own, so what happens to one class never depends on the
others. Indices come back sorted.
"""

from collections.abc import Iterator

import numpy as np


def _shuffled_classes(
    labels: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    for label in np.unique(labels):
        rng = np.random.default_rng([seed, int(label)])
        yield rng.permutation(np.flatnonzero(labels == label)), rng


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out) of integer labels [N], with `fraction` of every class held out,
    rounded.

    A class of two or more images gives at least one and keeps at least one; a class of one image
    keeps it. A fraction of 0 holds nothing out.
    """
    held_out: list[int] = []
    if fraction > 0:
        for members, _ in _shuffled_classes(labels, seed):
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held_out += members[:count].tolist()
    held = np.sort(np.array(held_out, dtype=np.int64))
    return np.setdiff1d(np.arange(len(labels)), held), held


def few_shot(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Indices of `shots` images of every class of integer labels [N].

    A class that has fewer is drawn from with replacement, as in the reference implementation, so an
    index can occur several times. For one seed, the images of fewer shots are among those of more.
    """
    chosen: list[int] = []
    for members, rng in _shuffled_classes(labels, seed):
        drawn = (
            members[:shots] if len(members) >= shots else rng.choice(members, shots, replace=True)
        )
        chosen += drawn.tolist()
    return np.sort(np.array(chosen, dtype=np.int64))


def long_tail(labels: np.ndarray, imbalance_factor: float, seed: int) -> np.ndarray:
    """Indices of a long-tailed part of integer labels [N] with C classes.

    The i-th largest class (from 0; the lower label first among equals) keeps floor(mean count *
    factor ** (i / (C - 2))) of its images, at least 1 and at most what it has. C - 2 is the
    reference implementation's; with two classes it is taken as 1.
    """
    classes, counts = np.unique(labels, return_counts=True)
    rank = {int(classes[place]): i for i, place in enumerate(np.argsort(-counts, kind="stable"))}
    mean = len(labels) / max(len(classes), 1)
    chosen: list[int] = []
    for members, _ in _shuffled_classes(labels, seed):
        size = mean * imbalance_factor ** (rank[int(labels[members[0]])] / max(len(classes) - 2, 1))
        chosen += members[: max(int(size), 1)].tolist()
    return np.sort(np.array(chosen, dtype=np.int64))
