"""Tables with a column of images and one of labels."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int32

from diffmix.config import DataConfig
from diffmix.datasets.raw import Found, Raw, Unlabeled
from diffmix.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a table."""

    where: str
    schema: pa.Schema
    batches: Callable[[list[str]], Iterator[pa.Table]]
    """A new pass over some columns, a few rows at a time."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of one or more files, in order."""

    where: str
    root: str
    """Folder that image paths in the table are relative to."""
    parts: list[Part]
    stamp: str


def raw(table: Table, split: str, config: DataConfig) -> Raw:
    """A table's images. Ids come from the column `image_id`, else they are `split/row`. Groups come
    from the column `group`, if there is one.
    """
    _check_columns(table, config)
    class_names, labels, notes = _labels(table, config.label_column)
    first = table.parts[0].schema
    names = [config.image_column, *(name for name in ("image_id", "group") if name in first.names)]

    def examples() -> Iterator[Found]:
        row = 0
        for part in table.parts:
            for batch in part.batches(names):
                for values in batch.to_pylist():
                    image_id, group = values.get("image_id"), values.get("group")
                    yield Found(
                        f"{split}/{row}" if image_id is None else str(image_id),
                        _image(values[config.image_column], table.root),
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
        notes=notes,
    )


def _image(value: dict | bytes | None, root: str) -> bytes | str | None:
    if isinstance(value, dict):
        path = value.get("path")
        return value["bytes"] or (os.path.join(root, path) if path else None)
    return value


def _check_columns(table: Table, config: DataConfig) -> None:
    first = table.parts[0]
    for option, name in (
        ("image_column", config.image_column),
        ("label_column", config.label_column),
    ):
        if name not in first.schema.names:
            columns = ", ".join(first.schema.names)
            raise UserError(
                f"{table.where} has no column {name!r}; choose one of {columns} with "
                f"--data.{option}."
            )
    type = first.schema.field(config.image_column).type
    is_files = pa.types.is_struct(type) and type.get_field_index("bytes") >= 0
    if not (is_files or pa.types.is_binary(type) or pa.types.is_large_binary(type)):
        raise UserError(
            f"The column {config.image_column!r} of {table.where} holds {type} and no image files; "
            "choose another with --data.image_column."
        )
    optional = [name for name in ("image_id", "group") if name in first.schema.names]
    for part in table.parts[1:]:
        for name in (config.image_column, *optional):
            if not _same_field(name, part.schema, first.schema):
                raise _unlike(name, part, first)
        if config.label_column not in part.schema.names:
            raise _unlike(config.label_column, part, first)


def _same_field(name: str, schema: pa.Schema, other: pa.Schema) -> bool:
    return name in schema.names and schema.field(name).type == other.field(name).type


def _unlike(name: str, part: Part, first: Part, or_lacks: str = "") -> UserError:
    lacks = f", or one of the two lacks {or_lacks}" if or_lacks else ""
    return UserError(
        f"The column {name!r} is missing in {part.where} or not of the type that it has in "
        f"{first.where}{lacks}; make the files alike, or remove one."
    )


def _labels(table: Table, column: str) -> tuple[list[str], Int32[np.ndarray, " rows"], list[str]]:
    """The names of the classes that occur, each row's index into them, and what to say about them.

    Integers with Hugging Face features are names, each file's by its own features; they come first,
    in the features' order. Other labels are sorted, numbers by value. Files are matched by name.
    """
    order: dict[str, int] = {}  # names of features, in order
    numbers = False
    values: list = []
    stored: list = []
    for part in table.parts:
        kind = _kind_of(part, column)
        names = _feature_names(part.schema, column) if kind == "integers" else None
        is_number = kind == "integers" and names is None
        if values and is_number != numbers:
            raise _unlike(column, part, table.parts[0], "class names for its integers")
        numbers = is_number
        for name in names or []:
            order.setdefault(_text(name), len(order))
        for batch in part.batches([column]):
            found = batch.column(column).to_pylist()
            stored += found
            values += found if is_number else [_named(value, names) for value in found]
    # All -1: what `datasets` writes for a split whose labels are kept secret.
    secret = numbers and set(values) == {-1}
    missing = [row for row, value in enumerate(values) if value is None or secret]
    if missing:
        error = Unlabeled if len(missing) == len(values) else UserError
        raise error(
            f"Row {missing[0]} of {table.where} has no class: its {column!r} is "
            f"{stored[missing[0]]} ({len(missing)} of {len(values)} rows have none); remove such "
            "rows."
        )
    if numbers:
        occurring = sorted(set(values))
        notes = [_negative(table, value, values) for value in occurring if value < 0]
    else:
        occurring = sorted(set(values), key=lambda name: (order.get(name, len(order)), name))
        notes = []
    index = {value: label for label, value in enumerate(occurring)}
    labels = np.array([index[value] for value in values], dtype=np.int32)
    return [str(value) for value in occurring], labels, notes


def _negative(table: Table, value: int, values: list) -> str:
    return f"{values.count(value)} rows of {table.where} have the label {value}, taken for a class"


def _kind_of(part: Part, column: str) -> str:
    type = part.schema.field(column).type
    type = type.value_type if pa.types.is_dictionary(type) else type
    if pa.types.is_integer(type):
        return "integers"
    if pa.types.is_string(type) or pa.types.is_large_string(type):
        return "names"
    raise UserError(
        f"The column {column!r} of {part.where} holds {type}; labels must be integers or "
        "class names."
    )


def _named(value: int | str | None, names: list[str] | None) -> str | None:
    """A label's class name; None for a label that is none."""
    if isinstance(value, int):
        return _text(names[value]) if names and 0 <= value < len(names) else None
    return _text(value) or None if value is not None else None


def _text(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _feature_names(schema: pa.Schema, column: str) -> list[str] | None:
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return metadata["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):  # not written by `datasets`, or no ClassLabel
        return None
