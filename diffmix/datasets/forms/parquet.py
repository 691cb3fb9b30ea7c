"""Parquet files and folders, in the layouts of `datasets` and of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffmix import images
from diffmix.config import DataConfig
from diffmix.datasets.forms import leftovers
from diffmix.datasets.forms.split_names import parse
from diffmix.datasets.forms.table import Part, Table, raw
from diffmix.datasets.forms.tree import text
from diffmix.datasets.raw import Raw, Source, Split, file_stamp
from diffmix.errors import UserError, reason

_ROWS = 64
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.parquet")


def has_files(folder: str) -> bool:
    """Whether there is a file with the suffix of Parquet in a folder or below it."""
    walked = os.walk(folder, followlinks=False)
    return any(is_parquet(name) for _, _, names in walked for name in names)


def is_parquet(name: str) -> bool:
    """Whether a file's name says that it is a Parquet file."""
    return name.lower().endswith(".parquet")


def files_in(folder: str, leave: tuple[str, ...] = ()) -> tuple[list[str], dict[str, list[str]]]:
    """The Parquet files of a folder and all other files by the reason why they are ignored; paths
    below the folder, sorted. What is in `leave` (real paths) or below it is neither.
    """
    found: list[str] = []
    ignored: dict[str, list[str]] = defaultdict(list)
    for parent, _, names in os.walk(folder, followlinks=False):
        for name in names:
            path = os.path.relpath(os.path.join(parent, name), folder)
            real = os.path.realpath(os.path.join(parent, name))
            if any(real == one or real.startswith(f"{one}{os.sep}") for one in leave):
                continue
            why = _ignored(path.split(os.sep))
            if why is None and is_parquet(name):
                found.append(path.replace(os.sep, "/"))
            else:
                other = leftovers.other_kind(name, "beside the Parquet files")
                ignored[why or other].append(text(path))
    return sorted(found), dict(ignored)


def has_column(path: str, column: str) -> bool:
    """Whether a file is a Parquet file that has the column."""
    try:
        return column in pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return False


def find_file(path: str, config: DataConfig) -> Source:
    """A Parquet file: all of it is `train`."""
    return _source({"train": [path]}, path, os.path.dirname(path), config)


def find_folder(path: str, config: DataConfig, leave: tuple[str, ...] = ()) -> Source:
    """The splits of a Parquet folder.

    A README with the hub's `configs` says which files form them. Else a file belongs to the split
    that its name or, failing that, the nearest folder's has a word for. Where no name has one, all
    files are `train`; where some have, the others are left alone.
    """
    names, ignored = files_in(path, leave)
    chosen = _by_readme(path, config) or _by_name(path, names, config)
    splits, notes = {key: files for key, files in chosen.items() if key}, _missing_shards(names)
    left = sorted(set(names) - {file for files in splits.values() for file in files})
    if left:
        rows = sum(map(_rows, (os.path.join(path, name) for name in left)))
        ignored["Parquet files of no split"] = left
        notes.append(f"{_some(left)}: of no split that is known here, so their {rows} rows are left"
                     " alone")  # fmt: skip
    named = _named_files(path, names, config.image_column, ignored)
    ignored = {
        why: kept
        for why, files in ignored.items()
        if (kept := [file for file in files if file not in named])
    }
    absolute = {
        split: [os.path.join(path, file) for file in files] for split, files in splits.items()
    }
    return _source(absolute, path, path, config, ignored, notes)


def _ignored(parts: list[str]) -> str | None:
    for place, part in enumerate(parts):
        found = leftovers.reason(part, is_folder=place < len(parts) - 1)
        if found:
            return found
    return None


def _by_name(path: str, names: list[str], config: DataConfig) -> dict[str, list[str]]:
    """Split -> files, by their names. Files of no split are under the empty name."""
    found: dict[str, list[str]] = defaultdict(list)
    configurations: dict[str, set[str]] = defaultdict(set)
    for name in names:
        split, configuration = _split_of(name)
        if config.configuration and not _is_of(config.configuration, configuration, name):
            split = ""
        elif split:
            configurations[split].add(configuration)
        found[split].append(name)
    if config.configuration and set(found) == {""}:
        folders = sorted({name.partition("/")[0] for name in names if "/" in name})
        raise UserError(
            f"{path} has no configuration {config.configuration!r}; --data.configuration may be "
            f"one of {_some(folders)}."
        )
    for split, several in configurations.items():
        if len(several) > 1:
            raise UserError(
                f"{path} has the split {split!r} in several configurations, "
                f"{_some(sorted(several))}; choose one with --data.configuration."
            )
    return {"train": found[""]} if set(found) == {""} else found


def _split_of(name: str) -> tuple[str, str]:
    """The split of a file, or nothing, and the folder that is its configuration."""
    parts = name.removesuffix(".parquet").split("/")
    for place in reversed(range(len(parts))):
        found = parse(parts[place])
        if found:
            return found.split, "/".join(parts[:place])
    return "", ""


def _is_of(wanted: str, configuration: str, name: str) -> bool:
    return wanted in (configuration, *configuration.split("/"), *name.split("/")[:-1])


def _by_readme(path: str, config: DataConfig) -> dict[str, list[str]] | None:
    """Split -> files as the README's `configs` have it, by the rules of `datasets`."""
    try:
        with open(os.path.join(path, "README.md"), encoding="utf-8") as file:
            listed = re.search(r"^configs:", file.read(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    if not listed:
        return None
    import datasets

    try:
        builder = datasets.load_dataset_builder(path, config.configuration)
        data_files: dict[Any, list[str]] = builder.config.data_files
    except Exception as error:  # of many types: YAML, patterns, a choice of configurations
        raise UserError(
            f"The configs in {path}/README.md cannot be used ({reason(error)}); choose one with "
            "--data.configuration, or mend the file."
        ) from error
    found: dict[str, list[str]] = {}
    for split, files in data_files.items():
        named = parse(str(split))
        key = named.split if named else ""
        inside = [os.path.relpath(file, path).replace(os.sep, "/") for file in files]
        found[key] = found.get(key, []) + inside
    return found


def _missing_shards(names: list[str]) -> list[str]:
    """A sentence for each file in parts of which some parts are missing."""
    parts: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name in names:
        shard = _SHARD.fullmatch(name)
        if shard:
            parts[shard[1], int(shard[3])].add(int(shard[2]))
    return [
        f"{name} has {len(found)} of its {total} parts"
        for (name, total), found in parts.items()
        if len(found) < total
    ]


def _named_files(
    path: str, names: list[str], column: str, ignored: dict[str, list[str]]
) -> set[str]:
    """The image files beside the tables that rows name: these are no files of their own."""
    found: set[str] = set()
    if not any(
        file.lower().endswith(images.SUFFIXES) for files in ignored.values() for file in files
    ):
        return found
    for name in names:
        try:
            with pq.ParquetFile(os.path.join(path, name)) as file:
                for batch in file.iter_batches(columns=[f"{column}.path"]):
                    values = batch.column(0).to_pylist() if batch.num_columns else []
                    paths = [value["path"] for value in values if value and value.get("path")]
                    found.update(os.path.normpath(each) for each in paths)
        except (pa.ArrowException, OSError, TypeError):  # reading the rows says what is wrong
            continue
    return found


def _rows(path: str) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return 0


def _source(
    splits: dict[str, list[str]],
    where: str,
    root: str,
    config: DataConfig,
    ignored: dict[str, list[str]] | None = None,
    notes: list[str] | None = None,
) -> Source:
    found = {}
    for split, paths in splits.items():
        found[split] = Split(
            read=partial(_raw, paths, where, root, split, config),
            taken_from=_some([os.path.relpath(path, root) for path in paths]),
            count=partial(_count, paths),
        )
    return Source(splits=found, ignored=ignored or {}, notes=notes or [])


def _count(paths: list[str]) -> int:
    return sum(map(_rows, paths))


def _raw(paths: list[str], where: str, root: str, split: str, config: DataConfig) -> Raw:
    parts = []
    for path in paths:
        parts.append(Part(where=path, schema=_schema(path), batches=partial(_batches, path)))
    table = Table(where=where, root=root, parts=parts, stamp=file_stamp(paths, root))
    return raw(table, _spelling(os.path.relpath(paths[0], root), split), config)


def _spelling(name: str, split: str) -> str:
    """The split as the file's name spells it: it is a part of the images' ids."""
    found = [parse(part) for part in name.removesuffix(".parquet").split("/")]
    return next((each.spelling for each in reversed(found) if each and each.split == split), split)


def _schema(path: str) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}.") from error


def _batches(path: str, columns: list[str]) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            for batch in file.iter_batches(_ROWS, columns=columns):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}.") from error


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
