"""Which folders of an image folder are classes, and which are splits.

| what lies in the folder | what it is taken for |
| --- | --- |
| `cat/*`, `dog/*` | classes |
| `train/<class>/*`, `test/<class>/*` | splits with classes |
| `train/<class>/*`, `test/*` | the same; the test folder has no labels and is left alone |
| `cat/*`, `dog/*`, `test/cat/*` | classes, and a split with the same classes |
| `cat/*`, `dog/*`, `test/*` | classes, and a test folder without labels, which is left alone |
| `images/<class>/*`, `test/*` | training images by any name beside a test folder |
| `cat/train/*`, `cat/test/*` | classes with splits in each |
| one folder with one of these in it | the same |
| `train/*`, `test/*` | nothing: images without labels are refused |
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from diffmix.datasets.class_names import plain
from diffmix.datasets.forms import leftovers
from diffmix.datasets.forms.split_names import parse, split_of
from diffmix.datasets.forms.tree import Ignored, Tree, text
from diffmix.errors import UserError

UNLABELED = "in a split without labels"
LOOSE = "in no class folder"
# Names of a folder that holds all images of a split, and is no class.
_WRAPPERS = {"images", "image", "imgs", "img", "photos", "pictures", "unknown", "unlabeled"}
_WRAPPERS |= {"unlabelled", "all", "data", "none"}
_SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(kw_only=True)
class Layout:
    """The classes of each split, and what was left out."""

    root: str
    classes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Split -> class -> paths of images. Class names are NFC, and classes may be empty."""
    taken: dict[str, list[str]] = field(default_factory=dict)
    """Split -> the folders that it was taken from, below `root`."""
    ignored: Ignored = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)

    def leave(self, reason: str, paths: Iterable[str]) -> int:
        """Leave images out; how many these are."""
        left = list(paths)
        if left:
            self.ignored[reason] += left
        return len(left)

    def at(self, path: str) -> str:
        """A path as people read it: below `root`."""
        return text(os.path.relpath(path, self.root))

    def take(self, split: str, tree: Tree) -> None:
        """Take the folders in `tree` for the classes of a split."""
        self.taken.setdefault(split, []).append(self.at(tree.path))
        self.leave(LOOSE, tree.images)
        for folder in tree.folders:
            self._add(split, folder.name, self._class_images(folder))

    def _add(self, split: str, name: str, paths: list[str]) -> None:
        self.classes.setdefault(split, {}).setdefault(text(name), []).extend(paths)

    def _class_images(self, folder: Tree) -> list[str]:
        """The images of a class's folder, without the thumbnails in it."""
        paths = list(folder.images)
        for below in folder.folders:
            if leftovers.is_thumbnail_folder(below.name):
                self.leave(leftovers.THUMBNAILS, below.all_images())
            else:
                paths += self._class_images(below)
        return paths

    def take_inside_classes(self, folders: list[Tree]) -> None:
        """Take the splits inside the folders of classes: `cat/train/*`, `cat/test/*`."""
        for folder in folders:
            for below in folder.folders:
                if leftovers.is_thumbnail_folder(below.name):
                    self.leave(leftovers.THUMBNAILS, below.all_images())
                    continue
                split = split_of(below.name) or "train"
                self.taken.setdefault(split, []).append(self.at(below.path))
                self._add(split, folder.name, self._class_images(below))
            if folder.images:
                self._add("train", folder.name, list(folder.images))


def find_layout(root: Tree, one_class: bool = False) -> Layout:
    """The splits and classes of an image folder. A folder without splits is all `train`.

    `one_class`: the folder may have only one, as test images may. Raises `UserError` where images
    have no labels, and where a folder may be a split or a class.
    """
    layout = Layout(root=root.path)
    tree = root if one_class else _inside(root)
    roles = _roles(tree)
    _name_training(tree, roles, layout)
    others = [folder for folder in tree.filled() if folder.name not in roles]
    train = [_of_split(folder, "train") for folder in _with(tree, roles, "train")]
    if any(folder.filled() for folder in train):
        _take_splits(tree, roles, others, layout)
    elif others or not roles:
        _take_classes(tree, roles, others, layout)
    else:
        _take_held_out_alone(tree, roles, layout)
    return layout


def _with(tree: Tree, roles: dict[str, str], *splits: str) -> list[Tree]:
    """The folders in `tree` that are named like one of the splits."""
    return [folder for folder in tree.filled() if roles.get(folder.name) in splits]


def _roles(tree: Tree) -> dict[str, str]:
    """The split that each folder in `tree` is named like; other folders are left out.

    Names with other words are splits where all folders have the same ones: `cars_train` and
    `cars_test`.
    """
    roles = {folder.name: split_of(folder.name) for folder in tree.filled()}
    if "invalid" in map(str.casefold, roles):  # `valid` is its opposite, and no split
        roles = {name: None if name.casefold() == "valid" else roles[name] for name in roles}
    exact = {name: role for name, role in roles.items() if role}
    found = [parse(name) for name in roles]
    splits = [each.split for each in found if each]
    same = None not in found and len({each.rest for each in found if each}) == 1
    if not exact and same and "train" in splits and len(splits) > 1:
        return dict(zip(roles, splits, strict=True))
    return exact


def _name_training(tree: Tree, roles: dict[str, str], layout: Layout) -> None:
    """Take the one folder of classes beside a test folder for the training split, whatever its name
    is: `images/<class>/*`, `test/<class>/*` or `test/*`.
    """
    others = [folder for folder in tree.filled() if folder.name not in roles]
    if "train" in roles.values() or len(others) != 1 or others[0].images:
        return
    several = len(others[0].filled()) > 1
    for folder in _with(tree, roles, "val", "test"):
        if _same_classes(others[0], folder) or (several and not folder.filled()):
            roles[others[0].name] = "train"
            layout.notes.append(
                f"{layout.at(others[0].path)} is taken for the training split, because it has "
                f"folders of classes and lies beside {layout.at(folder.path)}"
            )
            return


def _same_classes(*folders: Tree) -> bool:
    """Whether folders have a class in common."""
    names = [{plain(text(below.name)) for below in folder.filled()} for folder in folders]
    return bool(set.intersection(*names))


def _inside(root: Tree) -> Tree:
    """The folder that archives put around all others, once or more, or `root` itself."""
    tree = root
    while not tree.images and len(tree.folders) == 1:
        (only,) = tree.folders
        if only.images or not only.filled() or split_of(only.name):
            break
        tree = only
    return tree


def _of_split(folder: Tree, split: str, class_names: Iterable[str] = ()) -> Tree:
    """The folder inside a split's folder that holds its classes, or its images without labels:
    `seg_train/seg_train`, `test/images`. Mostly it is the split's folder itself.
    """
    while not folder.images and len(folder.filled()) == 1:
        (only,) = folder.filled()
        named = split_of(only.name) == split or only.name.lower() in _WRAPPERS
        # One class alone is none that can be trained on.
        around = split == "train" and not only.images and len(only.filled()) > 1
        if not (named or around) or text(only.name) in class_names:
            break
        folder = only
    return folder


def _take_splits(tree: Tree, roles: dict[str, str], others: list[Tree], layout: Layout) -> None:
    """`train/<class>/*` and whatever lies beside it."""
    held_out = _with(tree, roles, "val", "test")
    if others and not held_out:
        train, names = _with(tree, roles, "train")[0].name, [folder.name for folder in others]
        raise UserError(
            f"{tree.path} has {train!r} with folders in it beside {_some(names)}, so {train!r} may "
            f"be the training split or a class; give --data.train {os.path.join(tree.path, train)},"
            " or put the images of a class straight into its folder."
        )
    layout.leave(LOOSE, tree.images)
    for folder in _with(tree, roles, "train"):
        _take_or_leave(folder, "train", layout)
    for folder in held_out:
        _take_or_leave(folder, roles[folder.name], layout)
    for folder in others:
        count = layout.leave("in a folder that is no split", folder.all_images())
        layout.notes.append(
            f"{layout.at(folder.path)} is no split, so its {count} images are left alone"
        )


def _take_or_leave(folder: Tree, split: str, layout: Layout) -> None:
    """Take the classes in a split's folder, or leave its images, which have no labels."""
    inside = _of_split(folder, split, layout.classes.get("train", {}))
    if inside.filled():
        layout.take(split, inside)
        return
    count = layout.leave(UNLABELED, folder.all_images())
    layout.notes.append(
        f"{layout.at(folder.path)} has no folders of classes in it, so its {count} images have no "
        f"labels and are left alone; its name says {_SPLIT_WORDS[split]}"
    )


def _take_held_out_alone(tree: Tree, roles: dict[str, str], layout: Layout) -> None:
    """Folders that are all named like splits, without a training split that has classes."""
    held_out = _with(tree, roles, "val", "test")
    labeled = [folder for folder in held_out if _of_split(folder, roles[folder.name]).filled()]
    if not labeled or _with(tree, roles, "train"):
        raise UserError(
            f"{tree.path} has {_some(list(roles))}, named like splits, without folders of classes "
            "in the training split; put the images of each class into a folder of their own, named "
            "like the class."
        )
    for folder in held_out:
        _take_or_leave(folder, roles[folder.name], layout)


def _take_classes(tree: Tree, roles: dict[str, str], others: list[Tree], layout: Layout) -> None:
    """Folders of classes, and held-out folders that may lie beside them."""
    class_names = {text(folder.name) for folder in others}
    beside = Tree(path=tree.path, name=tree.name, folders=others)
    held_out, unlabeled = [], []
    for folder in _with(tree, roles, "train", "val", "test"):
        inside = _of_split(folder, roles[folder.name], class_names)
        may_be_class = "train" in roles.values() or folder.name.casefold() == "valid"
        if "train" not in roles.values() and _same_classes(beside, inside):
            held_out.append(folder)
        elif may_be_class or (len(class_names) < 2 and not inside.filled()):
            layout.notes.append(
                f"{layout.at(folder.path)} is taken for a class, because folders of classes lie "
                f"beside it; its name says {_SPLIT_WORDS[roles[folder.name]]}"
            )
        elif not inside.filled():
            unlabeled.append(folder)
        else:
            raise UserError(
                f"{folder.path} is named like a {_SPLIT_WORDS[roles[folder.name]]} split, but has "
                f"none of the classes beside it; name its folders like those, or rename "
                f"{folder.name!r} if it is a class."
            )
    aside = {folder.name for folder in [*held_out, *unlabeled]}
    classes = []
    for folder in tree.folders:
        empty_split = split_of(folder.name) and not folder.has_images()
        if folder.name not in aside and not empty_split:
            classes.append(folder)
    if not held_out and _has_splits_inside(classes):
        layout.leave(LOOSE, tree.images)
        layout.take_inside_classes(classes)
    else:
        _note_splits_inside(classes, layout)
        only = Tree(path=tree.path, name=tree.name, folders=classes, images=tree.images)
        layout.take("train", only)
    for folder in [*held_out, *unlabeled]:
        _take_or_leave(folder, roles[folder.name], layout)


def _has_splits_inside(classes: list[Tree]) -> bool:
    """Whether each class has held-out images in a folder of their own, or one has training images
    so too.
    """
    found = [{split_of(below.name) for below in folder.filled()} for folder in classes]
    held_out = [bool(splits & {"val", "test"}) for splits in found]
    return any(held_out) and (all(held_out) or any("train" in splits for splits in found))


def _note_splits_inside(classes: list[Tree], layout: Layout) -> None:
    for folder in classes:
        for below in folder.filled():
            split = split_of(below.name)
            if split in ("val", "test"):
                layout.notes.append(
                    f"the images in {layout.at(below.path)} count as {folder.name}'s like all "
                    f"others in that folder; its name says {_SPLIT_WORDS[split]}"
                )


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
