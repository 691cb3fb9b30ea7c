"""Finds the reader for a user's data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial

from diffmix.config import DataConfig
from diffmix.datasets import named
from diffmix.datasets.forms import folder, huggingface, parquet
from diffmix.datasets.raw import Found, Raw, Source, Split
from diffmix.errors import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find(
    spec: str, config: DataConfig, leave: tuple[str, ...] = (), for_test: bool = False
) -> Source:
    """The splits that a data set brings: `train`, and `val` and `test` if it has them.

    `spec` is `nano`, `NAME:FOLDER` for a local copy of a published data set (`named.names`), an
    existing image folder, Parquet file or folder or saved Hugging Face data set, or else a hub id
    `owner/name`. Folders whose real paths are in `leave` are not entered. Labels are read when a
    split is called, images when its examples are iterated.

    Raises `UserError` for anything else, and for several splits without a `train`, which the data
    set `for_test` need not have.
    """
    if spec == "nano":
        return Source(splits={split: _nano_split(split) for split in ("train", "val", "test")})
    name, colon, root = spec.partition(":")
    path = os.path.expanduser(spec)
    if colon and name in named.names():
        found = named.find(name, os.path.expanduser(root))
    elif os.path.exists(path):
        found = _find_local(path, config, leave, for_test)
    elif _HUB_ID.fullmatch(spec):
        found = huggingface.find_hub(spec, config)
    else:
        raise UserError(
            f"The data set {spec!r} does not exist; give a folder, a Parquet file, a hub id such "
            "as owner/name, nano, or "
            "NAME:FOLDER for a copy of a published data set, where NAME is "
            f"{', '.join(named.names())}."
        )
    if "train" not in found.splits and not for_test:
        parts = [split.taken_from for split in found.splits.values()]
        raise UserError(
            f"{spec} has no training images, only {', '.join(parts)}, named like a test or a "
            "validation split; rename it, or give the training images with --data.train."
        )
    return found


def _find_local(path: str, config: DataConfig, leave: tuple[str, ...], for_test: bool) -> Source:
    if os.path.isdir(path):
        if huggingface.is_saved(path):
            return huggingface.find_saved(path, config)
        if _is_parquet_folder(path, config):
            return parquet.find_folder(path, config, leave)
        return folder.find(path, leave, one_class=for_test)
    if not parquet.is_parquet(path):
        raise UserError(
            f"{path} is a file, but not a Parquet file (*.parquet); give a folder with one "
            "sub-folder per class instead."
        )
    return parquet.find_file(path, config)


def _is_parquet_folder(path: str, config: DataConfig) -> bool:
    """Whether a folder has Parquet files, and these have images or nothing else has."""
    if not parquet.has_files(path):
        return False
    files, _ = parquet.files_in(path)
    if any(parquet.has_column(os.path.join(path, name), config.image_column) for name in files):
        return True
    return not folder.has_classes(path)


def _nano_split(split: str) -> Split:
    from diffmix.nano import data

    return Split(
        read=partial(_nano, split),
        taken_from=f"nano ({split})",
        count=lambda: len(list(data.recipes(split, 0))),  # type: ignore[arg-type]
    )


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
