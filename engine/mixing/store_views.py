"""A mix store in the forms that other libraries and notebooks take."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from diffmix.formats.named_mix import NamedMix, grid_html
from diffmix.storage import Folder

if TYPE_CHECKING:
    import datasets
    import pandas

_SHOWN = 8


class StoreViews(ABC):
    """What `MixStore` adds to itself. The abstract methods are the store's own."""

    folder: Folder
    schema: pa.Schema

    @property
    @abstractmethod
    def class_names(self) -> list[str]: ...

    @abstractmethod
    def counts(self) -> tuple[int, int]: ...

    @abstractmethod
    def named(self) -> Iterator[NamedMix]: ...

    @abstractmethod
    def tables(
        self, columns: list[str] | None = None, chunks: set[int] | None = None
    ) -> Iterator[pa.Table]: ...

    def to_pandas(self, images: bool = False) -> pandas.DataFrame:
        """The stored mixes as a table, by chunk number: the store's columns, and the names
        `source` and `target`. `images` adds the image files, which may not fit in memory.
        """
        class_names = self.class_names
        columns = [name for name in self.schema.names if images or name != "image"]
        tables = list(self.tables(columns))
        empty = self.schema.empty_table().select(columns)
        frame = pa.concat_tables([table.replace_schema_metadata() for table in [empty, *tables]])
        found = frame.to_pandas()
        for name in ("source", "target"):
            found[name] = [class_names[label] for label in found[f"{name}_label"]]
        return found

    def to_dataset(self, rejected: bool = False) -> datasets.Dataset:
        """The accepted mixes as a Hugging Face dataset: `image` is decoded when it is used,
        `source_label` and `target_label` are class labels. `rejected`: the rejected ones too.
        """
        import datasets
        from datasets.table import table_cast

        rows = []
        for table in self.tables():
            kept = table if rejected else table.filter(table["accepted"])
            rows.append(kept.replace_schema_metadata())
        label = datasets.ClassLabel(names=self.class_names)
        whole = pa.concat_tables([self.schema.empty_table(), *rows])
        features = datasets.Features.from_arrow_schema(whole.schema)
        features |= {"source_label": label, "target_label": label, "image": datasets.Image()}
        # `Dataset.cast_column` would show a progress bar for each column.
        return datasets.Dataset(
            table_cast(whole, features.arrow_schema), datasets.DatasetInfo(features=features)
        )

    def __repr__(self) -> str:
        return f"MixStore({self.folder.uri!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: how many mixes there are, and the first few."""
        accepted, rejected = self.counts()
        title = f"{self.folder.uri}: {accepted} mixes, {rejected} rejected"
        return grid_html(title, itertools.islice(self.named(), _SHOWN) if accepted else ())
