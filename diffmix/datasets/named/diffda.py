"""The splits of DiffDA-Eval ("UniDiffDA", IJCV 2026), an independent comparison of methods.

Its data set on the hub (nukezil/DiffDA-Eval) unpacks to a folder with a folder for each data set.
Those of CUB-200-2011 and FGVC-Aircraft are the publishers' own; which shots are drawn from them
follows from the seed (0, 1 and 2 in its tables). The others are image folders with splits:
`--data.train FOLDER/Blood/shot5`.
"""

from __future__ import annotations

import random
from functools import partial

import numpy as np
from jaxtyping import Int, Int64

from diffmix.datasets.named.aircraft import aircraft
from diffmix.datasets.named.cub import cub
from diffmix.datasets.named.published import Published, PublishedCopy, Split

_SOURCE = "https://huggingface.co/datasets/nukezil/DiffDA-Eval"


def few_shot(labels: Int[np.ndarray, " n"], shots: int, seed: int) -> Int64[np.ndarray, " chosen"]:
    """Indices of `shots` images of every class, as DiffDA-Eval draws them: class by class in the
    order in which the lists name them first, from one generator of Python's, with replacement
    where a class has fewer.
    """
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(index)
    drawn = random.Random(seed)
    chosen: list[int] = []
    for indices in members.values():
        enough = len(indices) >= shots
        chosen += drawn.sample(indices, shots) if enough else drawn.choices(indices, k=shots)
    return np.sort(np.array(chosen, dtype=np.int64))


def diffda_cub(copy: PublishedCopy, split: str) -> Split:
    """CUB-200-2011 in `CUB_200_2011/`: 5,994 and 5,794 images."""
    return _below(copy, "CUB_200_2011", cub, split)


def diffda_aircraft(copy: PublishedCopy, split: str) -> Split:
    """FGVC-Aircraft in `fgvc-aircraft-2013b/`: the part `train` alone, 3,334 images, and 3,333."""
    return _below(copy, "fgvc-aircraft-2013b", partial(aircraft, train="train"), split)


def _below(copy: PublishedCopy, folder: str, read, split: str) -> Split:
    found = read(copy.below(folder), split)
    images = [image._replace(path=f"{folder}/{image.path}") for image in found.images]
    return Split(found.class_names, images)


DATA_SETS = (
    Published(
        name="diffda-cub",
        title="DiffDA-Eval's CUB-200-2011",
        superclass="bird",
        source=_SOURCE,
        read=diffda_cub,
        few_shot=few_shot,
    ),
    Published(
        name="diffda-aircraft",
        title="DiffDA-Eval's FGVC-Aircraft",
        superclass="aircraft",
        source=_SOURCE,
        read=diffda_aircraft,
        few_shot=few_shot,
    ),
)
