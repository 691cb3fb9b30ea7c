"""Options of the group `data`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import NonNegativeInt, PositiveInt

from diffmix.options.markers import Place, Placeholder, Unit, Usual


def published_names() -> Iterable[str]:
    """The data sets that `NAME:FOLDER` may name."""
    from diffmix.datasets.named import names

    return names()


def _published(text: str) -> str:
    """The `NAME:` of `NAME:FOLDER`."""
    name, colon, _ = text.partition(":")
    return name + colon if colon and name in published_names() else ""


Images = Annotated[str, Place("path or name", _published)]
"""A data set, in any of the forms of `data.train`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The labeled images."""

    train: Usual[Annotated[Images, Placeholder("NAME", published_names)]] = ""
    """Training images: class folders, NAME:FOLDER, Parquet, hub id, `nano`. Class folders are a
    folder with one sub-folder per class. `NAME:FOLDER`, such as `cub:/data/CUB_200_2011`, is a
    local copy of a published data set in its publisher's layout. Parquet is a file or a folder. A
    Hugging Face data set is a hub id or a saved folder. `nano` is the embedded data set. Folders
    and Parquet may be URIs, such as `s3://bucket/photos` or `cub:s3://bucket/CUB_200_2011`.
    """
    test: Usual[Images | None] = None
    """Test images, in any form of `data.train`. None: the data set's own test split; without one, a
    stratified part of `data.train`.
    """
    val_fraction: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of each class's training images that is held out to pick the checkpoint. With shots or
    a long tail it is at most what these leave.
    """
    test_fraction: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    """Share of each class that becomes the test set of a data set without one."""
    superclass: Usual[str | None] = None
    """The word for what all classes are, such as `bird`. None: the data set's own word; without
    one, `object`.
    """
    shots: Usual[Annotated[PositiveInt | None, Unit("images")]] = None
    """Training images per class, drawn before validation images are. They are drawn with
    replacement where a class has fewer. None: all images. [C] 1, 5, 10
    """
    imbalance_factor: Usual[Annotated[float, Interval(gt=0, le=1)] | None] = None
    """Long tail: class sizes fall from their mean to this share of it. This comes before validation
    images are held out. None: sizes stay as they are. [C] 0.01, 0.02, 0.1
    """
    drop_duplicates: bool = False
    """Leave out test and validation images whose pixels are those of a training image. Off: they
    are only reported.
    """
    unknown_classes: Literal["error", "leave_out"] = "error"
    """What becomes of test and validation images of a class without training images. `error` names
    the classes and stops; `leave_out` counts the images and leaves them out.
    """
    configuration: str | None = None
    """Configuration of a Hugging Face data set or a Parquet folder that has several. None: the only
    one.
    """
    image_column: str = "image"
    """Column of the images in a Parquet or Hugging Face data set."""
    label_column: str = "label"
    """Column of the labels in a Parquet or Hugging Face data set. It holds integers or class
    names.
    """
    max_bad_images: Annotated[NonNegativeInt, Unit("images")] = 20
    """Unreadable images that are skipped. Each is named; one more stops the run with an error."""
    max_pixels: Annotated[PositiveInt, Unit("pixels")] = 100_000_000
    """An image of more pixels counts as unreadable. This protects against decompression bombs."""
    seed: NonNegativeInt = 0
    """Seed of the test, validation, few-shot and long-tail splits. It is separate from `run.seed`,
    so that runs with different seeds compare on the same images.
    """
