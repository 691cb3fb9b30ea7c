"""Which images are held out or kept: pure functions of labels and a seed.

Each class draws from its own generator, so the outcome for one class does not depend on the others.
Returned indices are sorted.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Int64


def _shuffled_classes(
    labels: Int[np.ndarray, " n"], seed: int
) -> Iterator[tuple[Int64[np.ndarray, " members"], np.random.Generator]]:
    for label in np.unique(labels):
        rng = np.random.default_rng([seed, int(label)])
        yield rng.permutation(np.flatnonzero(labels == label)), rng


def stratified(
    labels: Int[np.ndarray, " n"], fraction: float, seed: int
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Indices (kept, held out), with `fraction` (0 to below 1) of each class held out, rounded.

    A class of two or more images gives at least one and keeps at least one. A class of one image
    keeps it. A fraction of 0 holds nothing out.
    """
    held_out: list[int] = []
    if fraction > 0:
        for members, _ in _shuffled_classes(labels, seed):
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held_out += members[:count].tolist()
    held = np.sort(np.array(held_out, dtype=np.int64))
    return np.setdiff1d(np.arange(len(labels)), held), held


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
