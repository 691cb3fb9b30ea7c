"""Image folders: one sub-folder per class, or one such folder per split."""

import os
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial

from diffmix.datasets.raw import Found, Raw, file_stamp
from diffmix.errors import UserError

_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_HELD_OUT = ("test", "val", "valid", "validation")
_LEFTOVERS = ("__MACOSX",)  # macOS archives carry a shadow copy of every file in it


def find(root: str) -> dict[str, Callable[[], Raw]]:
    """The splits of an image folder, by the names that they have there. A folder without splits is
    all `train`.

    `train` and `test` (or `val`, `valid`, `validation`) are splits if they contain folders. Calling
    a split raises `UserError` for a folder without class folders and for a class folder without
    image files.
    """
    children = _folders(root)
    held_out = [name for name in _HELD_OUT if name in children and _folders(children[name])]
    if "train" in children and _folders(children["train"]) and (held_out or len(children) == 1):
        return {name: partial(_raw, root, children[name]) for name in ["train", *held_out]}
    return {"train": partial(_raw, root, root)}


def _raw(root: str, folder: str) -> Raw:
    by_class: dict[str, list[str]] = {}
    for name, path in _folders(folder).items():
        by_class.setdefault(_text(name), []).extend(
            _images(path, frozenset({os.path.realpath(path)}))
        )
    if not by_class:
        raise UserError(
            f"{folder} has no sub-folders; put the images of each class into a folder of their "
            "own, named like the class."
        )
    for name, paths in by_class.items():
        if not paths:
            raise UserError(
                f"The class folder {name!r} in {folder} has no image files; put some in or remove "
                "the folder."
            )
    class_names = sorted(by_class)
    rows = sorted(
        (_text(os.path.relpath(path, root)), path, label)
        for label, name in enumerate(class_names)
        for path in by_class[name]
    )

    def examples() -> Iterator[Found]:
        return (Found(image_id, path, label) for image_id, path, label in rows)

    return Raw(
        where=folder,
        class_names=class_names,
        superclass=None,
        stamp=file_stamp((path for _, path, _ in rows), root),
        examples=examples,
    )


def _folders(folder: str) -> dict[str, str]:
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: entry.path
                for entry in entries
                if entry.is_dir() and not _hidden(entry.name)
            }
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be listed: {error.strerror}.") from error


def _images(folder: str, ancestors: frozenset[str]) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not _hidden(entry.name)]
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be listed: {error.strerror}.") from error
    for entry in visible:
        if entry.is_dir():
            target = os.path.realpath(entry.path)
            if target not in ancestors:  # a link to a folder above itself would never end
                yield from _images(entry.path, ancestors | {target})
        elif entry.name.lower().endswith(_SUFFIXES):
            yield entry.path


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _LEFTOVERS


def _text(name: str) -> str:
    """A file name as text that is the same on every system. macOS splits an umlaut into two
    characters; Linux does not.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
