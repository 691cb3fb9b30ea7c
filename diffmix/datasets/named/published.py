"""A local copy of a published data set: its lists, read with errors that say what is missing and
where to get it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffmix.datasets.raw import FewShot
from diffmix.errors import UserError


class Listed(NamedTuple):
    """One image as the publisher's lists have it."""

    path: str
    """Relative to the copy's folder, with slashes; also the image's id."""
    class_name: str
    group: str | None = None


class Split(NamedTuple):
    """What the publisher's lists say about one split."""

    class_names: list[str]
    """In the publisher's order. Some may have no image."""
    images: list[Listed]


@dataclass(frozen=True)
class PublishedCopy:
    """The folder that a data set was unpacked into, in its publisher's layout. Paths are relative
    to it.
    """

    title: str
    source: str
    """The publisher's page."""
    root: str
    used: list[str]
    """Absolute paths of the lists that were read so far: what the labels depend on."""

    def has(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return os.path.exists(os.path.join(self.root, path))

    def below(self, path: str) -> "PublishedCopy":
        """The copy in a folder of this one. Raises `UserError` if it is missing."""
        return PublishedCopy(self.title, self.source, self.folder(path), self.used)

    def folder(self, path: str) -> str:
        """A folder's absolute path. Raises `UserError` if it is missing."""
        if not os.path.isdir(os.path.join(self.root, path)):
            raise self._missing("folder", path)
        return os.path.join(self.root, path)

    def file(self, path: str) -> str:
        """The absolute path of a file with labels, which is noted as used. Raises `UserError` if it
        is missing.
        """
        if not os.path.isfile(os.path.join(self.root, path)):
            raise self._missing("file", path)
        self.used.append(os.path.join(self.root, path))
        return self.used[-1]

    def lines(self, path: str) -> list[str]:
        """A text file's lines without blank ones and comments (# ...)."""
        with open(self.file(path), encoding="utf-8") as file:
            stripped = [line.strip() for line in file]
        return [line for line in stripped if line and not line.startswith("#")]

    def pairs(self, path: str) -> dict[str, str]:
        """A text file's lines: first column -> rest of the line. Raises `UserError` for a line with
        one column.
        """
        found = {}
        for line in self.lines(path):
            first, *rest = line.split(maxsplit=1)
            if not rest:
                raise UserError(
                    f"{self._where(path)} has the line {line!r}, which lacks a column; get the "
                    f"file again from {self.source}."
                )
            found[first] = rest[0]
        return found

    def mat(self, path: str, *names: str) -> list[np.ndarray]:
        """Variables of a MATLAB file, each as an array of one dimension. Raises `UserError` if one
        is missing or the file cannot be read.
        """
        from scipy.io import loadmat

        file = self.file(path)
        try:
            content = loadmat(file, squeeze_me=True)
            return [np.atleast_1d(content[name]) for name in names]
        except KeyError as error:
            raise UserError(
                f"{self._where(path)} has no variable {error}; get the file again from "
                f"{self.source}."
            ) from error
        except (
            Exception
        ) as error:  # scipy raises what its parser meets: ValueError, MatReadError, zlib.error, ...
            raise UserError(
                f"{self._where(path)} is not a readable MATLAB file ({error}); get it again from "
                f"{self.source}."
            ) from error

    def _where(self, path: str) -> str:
        return f"{os.path.join(self.root, path)} of {self.title}"

    def _missing(self, kind: str, path: str) -> UserError:
        return UserError(
            f"The {kind} {path} of {self.title} is missing in {self.root}; the data set comes from "
            f"{self.source}."
        )


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published data set, before a copy of it is read."""

    name: str
    """What stands before the colon in `--data.train NAME:FOLDER`."""
    title: str
    """As its publisher calls it."""
    superclass: str
    source: str
    """The publisher's page."""
    read: Callable[[PublishedCopy, str], Split]
    """Reads the lists of one split. `ValueError`, `LookupError`, `TypeError`, `ParseError` and
    `OSError` become the sentence that the lists are not as they were published.
    """
    splits: tuple[str, ...] = ("train", "test")
    """Of "train", "val" and "test", those that the publisher has."""
    few_shot: FewShot | None = None
    """How the publisher draws few shots. None: `splits.few_shot`."""


def numbered_split(found: list[tuple[str, int]], names: dict[int, str]) -> Split:
    """A split of (path, label) pairs whose labels are numbers with these names."""
    class_names = [names[label] for label in sorted(names)]
    return Split(class_names, [Listed(path, names[label]) for path, label in found])
