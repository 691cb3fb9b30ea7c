"""A folder's files: which are images, and which are ignored and why."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from diffmix import images
from diffmix.datasets.forms import leftovers
from diffmix.errors import UserError

# A file with one of these names is meant to be an image; if it cannot be read, it is said so.
_SUFFIXES = (*images.SUFFIXES, ".tga", ".psd", ".dds")
_HEAD = 256

Ignored = dict[str, list[str]]
"""Why files are ignored -> which."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder, what is in it, and what was ignored in it."""

    path: str
    name: str
    folders: list[Tree] = field(default_factory=list)
    """By name. What is ignored is left out."""
    images: list[str] = field(default_factory=list)
    """Paths of the files in this folder that are images by their suffix or content."""

    def all_images(self) -> Iterator[str]:
        """Paths of the images in this folder and in all below it."""
        yield from self.images
        for folder in self.folders:
            yield from folder.all_images()

    def has_images(self) -> bool:
        """Whether there is an image in this folder or below it."""
        return next(self.all_images(), None) is not None

    def filled(self) -> list[Tree]:
        """The folders in this one that have images."""
        return [folder for folder in self.folders if folder.has_images()]


def walk(root: str, leave: tuple[str, ...] = ()) -> tuple[Tree, Ignored]:
    """A folder and all below it. Links are followed; folders whose real paths are in `leave` are
    not entered.

    Raises `UserError` for a folder that cannot be listed.
    """
    ignored: Ignored = defaultdict(list)
    tree = _walk(root, os.path.basename(root), frozenset({os.path.realpath(root)}), leave, ignored)
    return tree, dict(ignored)


def text(name: str) -> str:
    """A file name as text that is the same on every system. macOS splits an umlaut into two
    characters; Linux does not.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _walk(
    path: str, name: str, above: frozenset[str], leave: tuple[str, ...], ignored: Ignored
) -> Tree:
    tree = Tree(path=path, name=name)
    entries = _entries(path)
    names = {entry.name for entry in entries}
    for entry in entries:
        is_folder = entry.is_dir()
        reason = leftovers.reason(entry.name, is_folder)
        if is_folder:
            target = os.path.realpath(entry.path)
            if target in leave:
                continue
            if reason or _is_run_folder(entry.path):
                ignored[reason or "in run folders of diffmix"] += _files(entry.path)
            elif target in above:  # it would never end
                ignored["links to a folder above them"].append(entry.path)
            else:
                below = _walk(entry.path, entry.name, above | {target}, leave, ignored)
                tree.folders.append(below)
            continue
        if reason is None and leftovers.is_thumbnail_of(entry.name, names):
            reason = leftovers.THUMBNAILS
        reason = reason or _no_image(entry)
        if reason:
            ignored[reason].append(entry.path)
        else:
            tree.images.append(entry.path)
    return tree


def _is_run_folder(path: str) -> bool:
    """Whether a folder is another run's: its images are mixes and plots."""
    files = ("config.yaml", os.path.join("data", "data.json"))
    return all(os.path.isfile(os.path.join(path, name)) for name in files)


def _entries(path: str) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"The folder {path} cannot be listed: {error.strerror}.") from error


def _no_image(entry: os.DirEntry) -> str | None:
    """Why a file is no image. None: its suffix or its content says that it is one."""
    named = entry.name.lower().endswith(_SUFFIXES)
    try:
        if not stat.S_ISREG(entry.stat().st_mode):  # to open a pipe would wait for ever
            return "neither files nor folders"
        if named:
            return None
        with open(entry.path, "rb") as file:
            found = _kind(file.read(_HEAD))
    except OSError:  # a dangling link, no permission: validation says so of what is named an image
        return None if named else leftovers.other_kind(entry.name)
    return None if found else leftovers.other_kind(entry.name)


def _kind(head: bytes) -> str | None:
    """The kind of image that a file of any name is. Texts may begin with `BM`, too: a BMP has four
    zeros besides.
    """
    found = images.kind(head)
    return None if found == "BMP" and head[6:10] != bytes(4) else found


def _files(folder: str) -> list[str]:
    """Every file below a folder that is ignored."""
    return sorted(os.path.join(path, name) for path, _, names in os.walk(folder) for name in names)
