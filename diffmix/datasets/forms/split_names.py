"""Which split a folder or a file is meant to be, by any usual spelling of its name."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_SPELLINGS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = {spelling: split for split, spellings in _SPELLINGS.items() for spelling in spellings}
"""Spelling in lower case -> `train`, `val` or `test`."""
# Words that say nothing about the split: `test_images`, `seg_train`, `TrainingSet`.
_FILLERS = {"set", "sets", "data", "dataset", "split", "seg", "image", "images", "img", "imgs"}
_FILLERS |= {"photos", "pictures", "folder", "raw"}
_COMPOUND = re.compile(rf"({'|'.join(SPLITS)})({'|'.join(_FILLERS)})")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[^\W\d_]+")


class Named(NamedTuple):
    """What a name says about the split."""

    split: str
    """`train`, `val` or `test`."""
    spelling: str
    """The word for it, in lower case."""
    rest: tuple[str, ...]
    """The name's other words."""


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for, where it says nothing else: `Train`,
    `test_images`, `val2017`, but not `test tube`.
    """
    found = parse(name)
    return found.split if found and not found.rest else None


def parse(name: str) -> Named | None:
    """The split that a name has a word for: `cars_train-0001` -> `Named("train", "train",
    ("cars",))`. None for names with words for no split, or for several.
    """
    words = []
    for word in _WORD.findall(_HUMP.sub(" ", unicodedata.normalize("NFC", name))):
        word = word.casefold()
        compound = _COMPOUND.fullmatch(word)
        words.append(compound[1] if compound else word)
    spellings = [word for word in words if word in SPLITS]
    if len({SPLITS[word] for word in spellings}) != 1:
        return None
    rest = tuple(word for word in words if word not in SPLITS and word not in _FILLERS)
    return Named(SPLITS[spellings[0]], spellings[0], rest)
