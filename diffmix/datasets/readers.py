"""Finds the reader for a user's data set."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial

from diffmix.config import DataConfig
from diffmix.datasets import folder, named, tabular
from diffmix.datasets.raw import Found, Raw
from diffmix.errors import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SPLITS = {
    "train": "train",
    "test": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}


def find(spec: str, config: DataConfig) -> dict[str, Callable[[], Raw]]:
    """The splits that a data set brings: `train`, and `val` and `test` if it has them.

    `spec` is `nano`, `NAME:FOLDER` for a local copy of a published data set (`named.names`), an
    existing image folder, Parquet file or folder or saved Hugging Face data set, or else a hub id
    `owner/name`. Labels and file lists are read when a split is called, images when its examples
    are iterated. Raises `UserError` for anything else, and for several splits without a `train`.
    """
    if spec == "nano":
        return {split: partial(_nano, split) for split in ("train", "val", "test")}
    name, colon, root = spec.partition(":")
    path = os.path.expanduser(spec)
    if colon and name in named.names():
        found = named.find(name, os.path.expanduser(root))
    elif os.path.exists(path):
        found = _find_local(path, config)
    elif _HUB_ID.fullmatch(spec):
        found = tabular.find_hub(spec, config)
    else:
        raise UserError(
            f"The data set {spec!r} does not exist; give a folder, a Parquet file, a hub id such "
            "as owner/name, nano, or "
            "NAME:FOLDER for a copy of a published data set, where NAME is "
            f"{', '.join(named.names())}."
        )
    splits = {_SPLITS[name]: raw for name, raw in found.items() if name in _SPLITS}
    if "train" not in splits:
        raise UserError(
            f"{spec} has the splits {', '.join(found)}, but none called train; save it with one of "
            "that name."
        )
    return splits


def _find_local(path: str, config: DataConfig) -> dict[str, Callable[[], Raw]]:
    if os.path.isdir(path):
        if any(
            os.path.exists(os.path.join(path, name))
            for name in ("dataset_dict.json", "dataset_info.json")
        ):
            return tabular.find_saved(path, config)
        if not tabular.is_parquet(path):
            return folder.find(path)
    if not tabular.is_parquet(path):
        raise UserError(
            f"{path} is a file, but not a Parquet file (*.parquet); give a folder with one "
            "sub-folder per class instead."
        )
    return tabular.find_parquet(path, config)


def _nano(split: str) -> Raw:
    from diffmix import __version__
    from diffmix.nano import data

    def examples() -> Iterator[Found]:
        return (Found(*example) for example in data.examples(split))  # type: ignore[arg-type]

    return Raw(
        where=f"nano ({split})",
        class_names=data.CLASS_NAMES,
        superclass=data.SUPERCLASS,
        stamp=f"nano {__version__} {split}",
        examples=examples,
    )
