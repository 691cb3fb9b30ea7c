"""Tables with a column of images and one of labels: Parquet files and Hugging Face data sets."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int32

from diffmix.config import DataConfig
from diffmix.datasets.raw import Found, Raw, file_stamp
from diffmix.errors import UserError

if TYPE_CHECKING:
    import datasets

_ROWS = 64
_SPLIT_FILE = re.compile(r"(?:data/)?(train|test|validation|valid|val)(?=[-_./])")


@dataclass(frozen=True, kw_only=True)
class _Table:
    where: str
    root: str
    """Folder that image paths in the table are relative to."""
    schema: pa.Schema
    stamp: str
    batches: Callable[[list[str]], Iterator[pa.Table]]
    """A new pass over some columns, a few rows at a time."""


def is_parquet(path: str) -> bool:
    """Whether a path is a Parquet file or a folder with some in it."""
    return bool(_parquet_files(path)) if os.path.isdir(path) else path.endswith(".parquet")


def find_parquet(path: str, config: DataConfig) -> dict[str, Callable[[], Raw]]:
    """The splits of a Parquet file or folder, by name.

    Files or folders whose names begin with `train`, `test` or `val...`
    (`data/test-00000-of-00001.parquet`) are those splits; all others are `train`.
    """
    if not os.path.isdir(path):
        return {"train": partial(_parquet, [path], path, os.path.dirname(path), "train", config)}
    split_files: dict[str, list[str]] = {}
    for name in _parquet_files(path):
        match = _SPLIT_FILE.match(name)
        split_files.setdefault(match[1] if match else "train", []).append(os.path.join(path, name))
    return {
        split: partial(_parquet, paths, path, path, split, config)
        for split, paths in split_files.items()
    }


def find_saved(path: str, config: DataConfig) -> dict[str, Callable[[], Raw]]:
    """The splits, by name, of a data set that `datasets` saved with `save_to_disk`."""
    import datasets

    return _find_huggingface(datasets.load_from_disk(path), path, config)


def find_hub(hub_id: str, config: DataConfig) -> dict[str, Callable[[], Raw]]:
    """The splits, by name, of a data set on the Hugging Face hub. Raises `UserError` if it cannot
    be loaded.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(hub_id)
    # No network, no access, no such id, no config name: the library's own words say it best.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(
            f"{hub_id} is neither a folder nor a file here, and the Hugging Face hub does not give "
            f"it: {reason}."
        ) from error
    return _find_huggingface(loaded, hub_id, config)


def _parquet_files(folder: str) -> list[str]:
    names = [
        os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
        for parent, _, files in os.walk(folder, followlinks=False)
        for name in files
        if name.endswith(".parquet") and not name.startswith(".")
    ]
    return sorted(names)


def _parquet(paths: list[str], where: str, root: str, split: str, config: DataConfig) -> Raw:
    def batches(columns: list[str]) -> Iterator[pa.Table]:
        for path in paths:
            try:
                with pq.ParquetFile(path, memory_map=True) as file:
                    wrong = [
                        name for name in columns if not _same_field(name, file.schema_arrow, schema)
                    ]
                    if wrong:
                        raise UserError(
                            f"The column {wrong[0]!r} is missing in {path} or not of the type that "
                            f"it has in {paths[0]}."
                        )
                    for batch in file.iter_batches(_ROWS, columns=columns):
                        yield pa.Table.from_batches([batch])
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{path} is not a readable Parquet file: {error}.") from error

    try:
        schema = pq.read_schema(paths[0])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{paths[0]} is not a readable Parquet file: {error}.") from error
    table = _Table(
        where=where, root=root, schema=schema, stamp=file_stamp(paths, root), batches=batches
    )
    return _raw(table, split, config)


def _same_field(name: str, schema: pa.Schema, other: pa.Schema) -> bool:
    return name in schema.names and schema.field(name).type == other.field(name).type


def _find_huggingface(
    loaded: object, where: str, config: DataConfig
) -> dict[str, Callable[[], Raw]]:
    import datasets

    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    if "train" not in splits and len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    return {
        name: partial(_huggingface, split, where, name, config) for name, split in splits.items()
    }


def _huggingface(split: "datasets.Dataset", where: str, name: str, config: DataConfig) -> Raw:
    paths = [file["filename"] for file in split.cache_files]
    root = os.path.dirname(paths[0]) if paths else where
    # As it is stored: images stay files, and the indices of a filtered set are respected.
    stored = split.with_format("arrow")
    stamp = f"{file_stamp(paths, root)} {split.num_rows}"
    table = _Table(
        where=where,
        root=root,
        schema=split.features.arrow_schema,
        stamp=stamp,
        batches=lambda columns: stored.select_columns(columns).iter(_ROWS),
    )
    return _raw(table, name, config)


def _raw(table: _Table, split: str, config: DataConfig) -> Raw:
    """A table's images. Ids come from the column `image_id`, else they are `split/row`. Groups come
    from the column `group`, if there is one.
    """
    _check_columns(table, config)
    class_names, labels = _labels(table, config.label_column)
    names = [
        config.image_column,
        *(name for name in ("image_id", "group") if name in table.schema.names),
    ]

    def examples() -> Iterator[Found]:
        row = 0
        for batch in table.batches(names):
            for values in batch.to_pylist():
                image = values[config.image_column]
                if isinstance(image, dict):
                    image = image["bytes"] or (
                        os.path.join(table.root, image["path"]) if image.get("path") else None
                    )
                image_id, group = values.get("image_id"), values.get("group")
                yield Found(
                    f"{split}/{row}" if image_id is None else str(image_id),
                    image,
                    int(labels[row]),
                    None if group is None else str(group),
                )
                row += 1

    return Raw(
        where=f"{table.where} ({split})",
        class_names=class_names,
        superclass=None,
        stamp=f"{table.stamp} {split}",
        examples=examples,
    )


def _check_columns(table: _Table, config: DataConfig) -> None:
    for option, name in (
        ("image_column", config.image_column),
        ("label_column", config.label_column),
    ):
        if name not in table.schema.names:
            columns = ", ".join(table.schema.names)
            raise UserError(
                f"{table.where} has no column {name!r}; choose one of {columns} with "
                f"--data.{option}."
            )
    type = table.schema.field(config.image_column).type
    is_files = pa.types.is_struct(type) and type.get_field_index("bytes") >= 0
    if not (is_files or pa.types.is_binary(type) or pa.types.is_large_binary(type)):
        raise UserError(
            f"The column {config.image_column!r} of {table.where} holds {type} and no image files; "
            "choose another with --data.image_column."
        )


def _labels(table: _Table, column: str) -> tuple[list[str], Int32[np.ndarray, " rows"]]:
    """The names of the classes that occur, and each row's index into them.

    If the table has Hugging Face features, names come from them, in their order. Other labels are
    sorted, numbers by value.
    """
    type = table.schema.field(column).type
    type = type.value_type if pa.types.is_dictionary(type) else type
    if not (
        pa.types.is_integer(type) or pa.types.is_string(type) or pa.types.is_large_string(type)
    ):
        raise UserError(
            f"The column {column!r} of {table.where} holds {type}; labels must be integers or "
            "class names."
        )
    names = _feature_names(table.schema, column) if pa.types.is_integer(type) else None
    values = [
        value for batch in table.batches([column]) for value in batch.column(column).to_pylist()
    ]
    for row, value in enumerate(values):
        if value is None or (names is not None and not 0 <= value < len(names)):
            raise UserError(
                f"Row {row} of {table.where} has no class: its {column!r} is {value}; remove such "
                "rows."
            )
    occurring = sorted(set(values))
    index = {value: label for label, value in enumerate(occurring)}
    class_names = [str(value) if names is None else names[value] for value in occurring]
    return class_names, np.array([index[value] for value in values], dtype=np.int32)


def _feature_names(schema: pa.Schema, column: str) -> list[str] | None:
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(column)
    return feature.get("names") if isinstance(feature, dict) else None
