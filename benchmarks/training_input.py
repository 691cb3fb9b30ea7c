"""The pool and its DataLoader against torchvision's ImageFolder and DataLoader, with the same JPEG
files, transforms and number of workers.

Half of our samples come from the pool of mixes and half from the file of real images; both have the
image folder's files. Then the pool grows to a million mixes. Memory is what the training process
and its workers hold for themselves (`RssAnon`). Pages of the pool's files are counted apart: the
kernel maps them, and drops them when it needs the memory.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks import record
from benchmarks.random_images import random_file
from diffmix.classifier.model import Classifier
from diffmix.classifier.samples import MixedSampler, MixedSamples
from diffmix.classifier.transforms import train_transform
from diffmix.config import MixConfig, TrainConfig
from diffmix.datasets.real import Example, RealSet
from engine.training.pool import PoolReader, PoolWriter

CLASSES = 200
SMALL_POOL = 10_000


class Inputs:
    """Both ways to feed a classifier, over `count` JPEG files of `side` px in `folder`."""

    def __init__(self, folder: Path, count: int, side: int, workers: int, batch_size: int):
        self.files = jpegs(count, side)
        resolution = side * 7 // 8
        names = [f"{i:03d}" for i in range(CLASSES)]
        classifier = Classifier(
            model_name="resnet50",
            class_names=names,
            resolution=resolution,
            mean=[0.5] * 3,
            std=[0.25] * 3,
            resize=side,
        )
        options = TrainConfig(resolution=resolution, resize=side)
        transform = train_transform(options, classifier)
        for i, file in enumerate(self.files):
            (folder / "images" / f"{i % CLASSES:03d}").mkdir(parents=True, exist_ok=True)
            (folder / "images" / f"{i % CLASSES:03d}" / f"{i}.jpg").write_bytes(file)
        examples = [Example(str(i), file, i % CLASSES) for i, file in enumerate(self.files)]
        real = RealSet.write(str(folder / "train.arrow"), examples, classifier.class_names, "thing")
        self.pool = PoolWriter(str(folder / "pool"))
        self.sampler = MixedSampler(count, 0.5, self.pool.__len__, batch_size, seed=0)
        samples = MixedSamples(real, PoolReader(self.pool.folder), transform, MixConfig(), options)
        # As `engine.training.classifier_loop.ClassifierLoop` makes it.
        common = {
            "batch_size": batch_size,
            "num_workers": workers,
            "multiprocessing_context": "forkserver" if workers else None,
            "persistent_workers": workers > 0,
        }
        self.ours = DataLoader(samples, sampler=self.sampler, **common)
        self.usual = DataLoader(
            ImageFolder(str(folder / "images"), transform), shuffle=True, **common
        )

    def grow(self, size: int) -> None:
        """Add mixes until the pool has `size`."""
        files = pa.array(self.files, pa.binary())
        while len(self.pool) < size:
            ids = np.arange(len(self.pool), min(size, len(self.pool) + 512))
            labels = pa.array(ids % CLASSES, pa.int32())
            image = files.take(pa.array(ids % len(self.files)))
            table = {
                "mix_id": ids,
                "image": image,
                "source_label": labels,
                "target_label": labels,
                "strength": np.full(len(ids), 0.7, np.float32),
            }
            self.pool.add(pa.table(table))
            self.pool.flush()

    def epoch_of_ours(self, number: int) -> int:
        self.sampler.set_epoch(number + 1)
        return sum(len(images) for images, _, _ in self.ours)

    def epoch_of_usual(self, number: int) -> int:
        return sum(len(images) for images, _ in self.usual)


def jpegs(count: int, side: int) -> list[bytes]:
    """Different files with the detail of photographs."""
    random = np.random.default_rng(0)
    return [random_file(random, side // 8, side) for _ in range(count)]


def memory_mb() -> tuple[float, float]:
    """MB that this process and its children hold for themselves, and MB that they have mapped from
    files.
    """
    process = psutil.Process()
    own = mapped = 0
    for each in (process, *process.children(recursive=True)):
        for line in Path(f"/proc/{each.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                own += int(line.split()[1])
            elif line.startswith("RssFile:"):
                mapped += int(line.split()[1])
    return own / 1024, mapped / 1024


def measure(
    folder: Path, images: int, side: int, workers: int, batch_size: int, repeats: int, largest: int
) -> dict[str, float]:
    """The figures. `images` are in an epoch; the pool grows from `SMALL_POOL` mixes, or a tenth of
    `largest` if that is less, to `largest`.
    """
    inputs = Inputs(folder, images, side, workers, batch_size)
    inputs.grow(min(SMALL_POOL, largest // 10))
    per_epoch = len(inputs.sampler)
    seconds = record.interleaved(
        {"usual": inputs.epoch_of_usual, "ours": inputs.epoch_of_ours}, repeats
    )
    # Our epochs are whole batches, and so have a few images more.
    usual = [images / taken for taken in seconds["usual"]]
    ours = [per_epoch / taken for taken in seconds["ours"]]
    own, mapped = memory_mb()
    inputs.grow(largest)
    grown = record.interleaved(
        {"usual": inputs.epoch_of_usual, "ours": inputs.epoch_of_ours}, repeats
    )
    usual_grown = [images / taken for taken in grown["usual"]]
    ours_grown = [per_epoch / taken for taken in grown["ours"]]
    own_grown, mapped_grown = memory_mb()
    return {
        "ratio_to_imagefolder": record.median_ratio(ours, usual),
        "ratio_to_imagefolder_grown": record.median_ratio(ours_grown, usual_grown),
        "rss_growth_mb": own_grown - own,
        "mapped_growth_mb": mapped_grown - mapped,
        "images_per_second": statistics.median(ours),
        "images_per_second_grown": statistics.median(ours_grown),
        "images_per_second_imagefolder": statistics.median(usual),
        "pool_mixes": len(inputs.pool),
        "pool_files": len(list((folder / "pool").iterdir())),
    }


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--images", type=int, default=3200, help="files, and images in an epoch")
    parser.add_argument(
        "--side",
        type=int,
        default=64,
        help="of the files, in pixels; small ones make what is not decoding count",
    )
    parser.add_argument("--workers", type=int, default=2, help="DataLoader processes")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--largest",
        type=int,
        default=1_000_000,
        help="mixes that the pool grows to (2.4 KB of disk each at 64 px)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)  # the workers need the cores
    with tempfile.TemporaryDirectory(prefix="diffmix-input-") as folder:
        figures = measure(
            Path(folder),
            options.images,
            options.side,
            options.workers,
            options.batch_size,
            options.repeats,
            options.largest,
        )
    record.show(
        f"JPEGs of {options.side} px, {options.workers} workers",
        ["figure", "value"],
        [[*item] for item in figures.items()],
    )
    record.write(options.json, figures)


if __name__ == "__main__":
    main()
