"""Image folders: one sub-folder per class, or one such folder per split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import chain

from diffmix import images
from diffmix.datasets.forms.layout import Layout, find_layout
from diffmix.datasets.forms.leftovers import THUMBNAILS
from diffmix.datasets.forms.tree import text, walk
from diffmix.datasets.raw import Found, Raw, Source, Split, file_stamp
from diffmix.errors import UserError


def find(root: str, leave: tuple[str, ...] = (), one_class: bool = False) -> Source:
    """The splits of an image folder; `layout` says what is taken for a split. A folder without
    splits is all `train`.

    Folders whose real paths are in `leave` are not entered. `one_class`: it may have one class.
    Raises `UserError` for images without labels. Calling a split raises it for a folder without
    class folders and for a class folder without image files.
    """
    tree, ignored = walk(root, leave)
    layout = find_layout(tree, one_class)
    before = [*chain(*ignored.values()), *layout.ignored.get(THUMBNAILS, [])]
    for reason, paths in layout.ignored.items():
        ignored[reason] = [*ignored.get(reason, []), *paths]
    splits = {}
    for name in layout.taken or {"train": []}:
        by_class = layout.classes.get(name, {})
        splits[name] = Split(
            read=partial(_raw, root, name, layout, before),
            taken_from=_said(layout.taken.get(name, [])),
            count=partial(_count, by_class),
        )
    return Source(
        splits=splits,
        ignored={reason: [layout.at(path) for path in paths] for reason, paths in ignored.items()},
        notes=[*layout.notes, *_merged(layout)],
    )


def has_classes(root: str) -> bool:
    """Whether a folder has images in folders of their own."""
    return bool(walk(root)[0].filled())


def _said(folders: list[str]) -> str:
    if folders in ([], ["."]):
        return "the whole folder"
    shown = [f"{folder}/" for folder in folders[:3]]
    return ", ".join([*shown, f"{len(folders) - 3} more"] if len(folders) > 3 else shown)


def _count(by_class: dict[str, list[str]]) -> int:
    return sum(map(len, by_class.values()))


def _merged(layout: Layout) -> list[str]:
    notes = []
    for split, folders in layout.taken.items():
        if len(folders) > 1 and len({os.path.dirname(folder) for folder in folders}) == 1:
            notes.append(f"{split} has the images of {_said(folders)}")
    return notes


def _raw(root: str, split: str, layout: Layout, ignored: list[str]) -> Raw:
    taken, by_class = layout.taken.get(split, []), layout.classes.get(split, {})
    where = os.path.join(root, taken[0]) if len(taken) == 1 and taken != ["."] else root
    if not by_class:
        raise UserError(
            f"{where} has no sub-folders; put the images of each class into a folder of their "
            "own, named like the class."
        )
    for name, paths in by_class.items():
        if not paths:
            raise UserError(
                f"The class folder {name!r} in {where} has no image files; put some in or remove "
                "the folder."
            )
    class_names = sorted(by_class)
    rows = []
    for label, name in enumerate(class_names):
        for path in by_class[name]:
            spelled = os.path.relpath(path, root)
            # Two spellings of one name by Unicode: the second keeps its own.
            rows.append((text(spelled), text(spelled) != spelled, path, label))
    rows.sort()
    paths = [path for *_, path, _ in rows]
    stamp = file_stamp(paths, root)

    def examples() -> Iterator[Found]:
        seen: set[str] = set()
        for image_id, _, path, label in rows:
            unique = image_id if image_id not in seen else os.path.relpath(path, root)
            seen.add(unique)
            yield Found(unique, path, label)

    return Raw(
        where=where,
        class_names=class_names,
        superclass=None,
        stamp=stamp,
        stamp_before=_stamp_before(paths, ignored, root, where) or stamp,
        examples=examples,
    )


def _stamp_before(used: list[str], ignored: list[str], root: str, where: str) -> str | None:
    """The stamp of the files that an older version read: it went by suffixes, and only knew what
    begins with a dot. None: these files.
    """
    more = [path for path in ignored if _read_before(path) and _is_in_class(path, where)]
    before = list(filter(_read_before, used))
    if not more and len(before) == len(used):
        return None
    before = sorted([*before, *more], key=lambda path: text(os.path.relpath(path, root)))
    return file_stamp(before, root)


def _is_in_class(path: str, folder: str) -> bool:
    parts = os.path.relpath(path, folder).split(os.sep)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return len(parts) > 1 and not hidden


def _read_before(path: str) -> bool:
    return path.lower().endswith(images.SUFFIXES)
