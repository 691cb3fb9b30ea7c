"""Published data sets by name: `cub:/data/CUB_200_2011` is a local copy of CUB-200-2011 in its
publisher's own layout.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from xml.etree.ElementTree import ParseError

from diffmix.datasets import layouts
from diffmix.datasets.published import PublishedCopy, Split
from diffmix.datasets.raw import Found, Raw, file_stamp
from diffmix.errors import UserError


@dataclass(frozen=True)
class Published:
    """What is known of a data set before its copy is read."""

    title: str
    superclass: str
    source: str
    """The publisher's page."""
    read: Callable[[PublishedCopy, str], Split]
    splits: tuple[str, ...] = ("train", "test")


_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/"

SETS = {
    "aircraft": Published(
        "FGVC-Aircraft", "aircraft", f"{_OXFORD}/fgvc-aircraft/", layouts.aircraft
    ),
    "cars": Published(
        "Stanford Cars",
        "car",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        layouts.cars,
    ),
    "cub": Published(
        "CUB-200-2011", "bird", "https://www.vision.caltech.edu/datasets/cub_200_2011/", layouts.cub
    ),
    "dogs": Published(
        "Stanford Dogs", "dog", "http://vision.stanford.edu/aditya86/ImageNetDogs/", layouts.dogs
    ),
    "flowers": Published(
        "Oxford Flowers-102", "flower", f"{_OXFORD}/flowers/102/", layouts.flowers
    ),
    "flowers-half": Published(
        "Oxford Flowers-102", "flower", f"{_OXFORD}/flowers/102/", layouts.flowers_half
    ),
    "food101": Published(
        "Food-101",
        "food",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        layouts.food101,
    ),
    "pets": Published("Oxford-IIIT Pets", "pet", f"{_OXFORD}/pets/", layouts.pets),
    "voc": Published("Pascal VOC", "object", _VOC, layouts.voc),
    "voc-main": Published("Pascal VOC", "object", _VOC, layouts.voc_main),
    "waterbirds": Published(
        "Waterbirds",
        "bird",
        "https://github.com/kohpangwei/group_DRO",
        layouts.waterbirds,
        splits=("train", "val", "test"),
    ),
}
"""The data sets by the name that stands before the colon. `layouts` says which images form their
splits.
"""


def find(name: str, root: str) -> dict[str, Callable[[], Raw]]:
    """The splits of the data set `SETS[name]` whose local copy is the folder `root`.

    Image ids are paths relative to `root`; classes keep the publisher's order. The publisher's
    lists are read when a split is called, and then raise `UserError` for what is missing in the
    copy or cannot be read.
    """
    if not os.path.isdir(root):
        title, source = SETS[name].title, SETS[name].source
        raise UserError(
            f"{name}:{root} names no folder; give the one that {title} was unpacked into (it comes from {source})."
        )
    return {split: partial(_raw, name, root, split) for split in SETS[name].splits}


def _raw(name: str, root: str, split: str) -> Raw:
    published = SETS[name]
    copy = PublishedCopy(published.title, published.source, root, used=[])
    try:
        found = published.read(copy, split)
        occurring = {image.class_name for image in found.images}
        class_names = [class_name for class_name in found.class_names if class_name in occurring]
        index = {class_name: label for label, class_name in enumerate(class_names)}
        rows = [
            Found(image.path, os.path.join(root, image.path), index[image.class_name], image.group)
            for image in found.images
        ]
    except (OSError, ValueError, LookupError, TypeError, ParseError) as error:
        last = f"; the last one read is {os.path.relpath(copy.used[-1], root)}" if copy.used else ""
        reason = f"{type(error).__name__}: {error}{last}"
        raise UserError(
            f"The lists of {copy.title} in {root} are not as they were published ({reason}); get them again from {copy.source}."
        ) from error
    for folder in sorted({os.path.dirname(image.path) for image in found.images}):
        copy.folder(
            folder
        )  # one that was not unpacked is told at once, and not as so many unreadable images

    def examples() -> Iterator[Found]:
        return iter(rows)

    stamp = file_stamp(
        [*copy.used, *(os.path.join(root, image.path) for image in found.images)], root
    )
    return Raw(
        f"{name}:{root} ({split})",
        class_names,
        published.superclass,
        f"{stamp} {name} {split}",
        examples,
    )
