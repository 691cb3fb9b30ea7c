"""What readers return: the splits of a data set as they were found, neither read nor validated."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from diffmix.errors import UserError

FewShot = Callable[[np.ndarray, int, int], np.ndarray]
"""Draws few shots from labels, for a number of shots and a seed: indices, sorted."""


class Found(NamedTuple):
    """One labeled image that may turn out to be unreadable."""

    image_id: str
    image: bytes | str | None
    """The file's bytes, or the path of a file that is not read yet. None: the row has neither."""
    label: int
    """Index into the split's own class names."""
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Raw:
    """One split of a data set as it was found."""

    where: str
    """The user's name for it, for error messages."""
    class_names: list[str]
    superclass: str | None
    stamp: str
    """Changes when the source may have changed. Made without reading images."""
    examples: Callable[[], Iterator[Found]]
    """Starts a new pass over the images, always in the same order."""
    stamp_before: str | None = None
    """The stamp that an older version had for the same images. None: the same as now."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about its labels: sentences without a full stop."""
    few_shot: FewShot | None = None
    """How the data set's publisher draws few shots. None: `splits.few_shot`."""


class Unlabeled(UserError):  # noqa: N818 (it is caught)
    """No image of a split has a label."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a data set, before its lists are read."""

    read: Callable[[], Raw]
    taken_from: str
    """The folder or files that were taken for this split, as people read it."""
    count: Callable[[], int]
    """How many images it has, readable or not."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a data set consists of."""

    splits: dict[str, Split]
    """`train`, `val` and `test`, as far as there are such."""
    ignored: dict[str, list[str]] = field(default_factory=dict)
    """Why files or images are left out -> which."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about how it was read: sentences without a full stop."""


def file_stamp(paths: Iterable[str], root: str) -> str:
    """SHA-256 over the names relative to `root`, sizes and modification times of files, in hex."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
            digest.update(
                f"{os.path.relpath(path, root)!a} {status.st_size} {status.st_mtime_ns}\n".encode()
            )
        except OSError:  # a dangling link: validation names it
            digest.update(f"{os.path.relpath(path, root)!a} -\n".encode())
    return digest.hexdigest()
