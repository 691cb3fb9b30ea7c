"""Options of the group `data`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DataConfig:
    """Where the labeled photographs are."""

    train: str = ""
    """Training images: a folder with one sub-folder per class, a Parquet file or folder, a Hugging
    Face data set (a saved folder or a hub id), `nano`, the embedded data set, or `NAME:FOLDER`, a
    local copy of a published data set in its publisher's layout, such as `cub:/data/CUB_200_2011`
    (aircraft, cars, cub, dogs, flowers, flowers-half, food101, pets, voc, voc-main, waterbirds).
    """
    test: str | None = None
    """Test images, in any of the forms of `train`. None: the data set's own test split, or else a
    stratified part of `train`.
    """
    val_fraction: float = 0.1
    """Share of the training images of each class that is held out to pick the checkpoint (0 to
    below 1).
    """
    test_fraction: float = 0.2
    """Share of each class that becomes the test set where the data set has none (0 to below 1)."""
    superclass: str | None = None
    """The word for what all classes are, such as `bird`. None: the data set's own word, else
    `object`.
    """
    shots: int | None = None
    """Keep this many training images per class, drawn with replacement where a class has fewer.
    None: all. [C] 1, 5, 10
    """
    imbalance_factor: float | None = None
    """Long-tailed training set: class sizes fall from the mean count to this share of it (0 to 1].
    None: as it is. [C] 0.01
    """
    image_column: str = "image"
    """Column of the images in a Parquet or Hugging Face data set."""
    label_column: str = "label"
    """Column of the labels in a Parquet or Hugging Face data set: integers or class names."""
    max_bad_images: int = 20
    """How many unreadable images may be skipped (each is named) before the run stops with an error."""
    max_pixels: int = 100_000_000
    """An image of more pixels than this counts as unreadable (protects against decompression
    bombs).
    """
    seed: int = 0
    """Seed of the test, validation, shot and long-tail splits; apart from `run.seed` so that runs
    compare on one split.
    """
