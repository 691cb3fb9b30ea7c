"""Data sets of the Hugging Face hub, and those that `datasets` saved to a disk."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from diffmix.config import DataConfig
from diffmix.datasets.forms.split_names import SPLITS
from diffmix.datasets.forms.table import Part, Table, raw
from diffmix.datasets.raw import Raw, Source, Split, file_stamp
from diffmix.errors import UserError, reason

if TYPE_CHECKING:
    import datasets

_ROWS = 64


def is_saved(path: str) -> bool:
    """Whether a folder is what `save_to_disk` wrote."""
    files = [{"dataset_dict.json"}, {"dataset_info.json", "state.json"}]
    return any(all(os.path.isfile(os.path.join(path, name)) for name in each) for each in files)


def find_saved(path: str, config: DataConfig) -> Source:
    """The splits of a data set that `datasets` saved. Raises `UserError` if it cannot be loaded."""
    import datasets

    try:
        loaded = datasets.load_from_disk(path)
    except Exception as error:  # missing or foreign files in it raise errors of many types
        raise UserError(
            f"{path} is not complete as save_to_disk wrote it ({reason(error)}); save it again."
        ) from error
    return _source(loaded, path, config)


def find_hub(hub_id: str, config: DataConfig) -> Source:
    """The splits of a data set on the hub. Raises `UserError` if it cannot be loaded."""
    import datasets

    try:
        names = [] if config.configuration is None else [config.configuration]
        loaded = datasets.load_dataset(hub_id, *names)
    # No network, no access, no such id, no config name: the library's own words say it best.
    except Exception as error:
        raise UserError(
            f"{hub_id} is neither a folder nor a file here, and the Hugging Face hub does not give "
            f"it: {reason(error)}."
        ) from error
    return _source(loaded, hub_id, config)


def _source(loaded: object, where: str, config: DataConfig) -> Source:
    import datasets

    parts: dict[str, Any] = {"train": loaded}
    if isinstance(loaded, datasets.DatasetDict):
        parts = dict(loaded)
    known = {name: SPLITS.get(name.casefold()) for name in parts}
    if "train" not in known.values() and len(parts) == 1:
        known = dict.fromkeys(parts, "train")
    found: dict[str, Split] = {}
    notes, ignored = [], {}
    for name, split in known.items():
        rows = parts[name].num_rows
        if split is None or split in found:
            ignored[f"in the split {name!r}"] = [f"{name}/{row}" for row in range(rows)]
            notes.append(f"{where} also has the split {name!r}, whose {rows} rows are left alone")
            continue
        found[split] = Split(
            read=partial(_raw, parts[name], where, name, config),
            taken_from=f"the split {name!r}",
            count=partial(int, rows),
        )
    if not found:
        raise UserError(
            f"{where} has the splits {', '.join(parts)}, but none called train; save it with one "
            "of that name."
        )
    return Source(splits=found, ignored=ignored, notes=notes)


def _raw(split: datasets.Dataset, where: str, name: str, config: DataConfig) -> Raw:
    paths = [file["filename"] for file in split.cache_files]
    root = os.path.dirname(paths[0]) if paths else where
    # As it is stored: images stay files, and the indices of a filtered set are respected.
    stored = split.with_format("arrow")
    part = Part(
        where=where,
        schema=split.features.arrow_schema,
        batches=lambda columns: stored.select_columns(columns).iter(_ROWS),
    )
    stamp = f"{file_stamp(paths, root)} {split.num_rows}"
    return raw(Table(where=where, root=root, parts=[part], stamp=stamp), name, config)
