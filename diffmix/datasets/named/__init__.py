"""Published data sets by name: `cub:/data/CUB_200_2011` is a local copy of CUB-200-2011 in its
publisher's own layout.

Each module lists its data sets as `DATA_SETS`. A reader's docstring says which images form the
splits. Where the paper's code splits in another way than the publisher, both can be had (`flowers`
and `flowers-half`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from xml.etree.ElementTree import ParseError

from diffmix.datasets.named.published import Published, PublishedCopy
from diffmix.datasets.raw import Found, Raw, Source, Split, file_stamp
from diffmix.errors import UserError
from diffmix.options.registry import Registry

REGISTRY: Registry[Published] = Registry(
    package="diffmix.datasets.named",
    attribute="DATA_SETS",
    option="data.train",
    what="published data set",
    accepts=lambda entry: isinstance(entry, Published),
)


def names() -> list[str]:
    """The names of all published data sets, sorted. `--data.train` shows them."""
    return sorted(REGISTRY.entries)


def find(name: str, root: str) -> Source:
    """The splits of the data set `name` whose local copy is the folder `root`.

    Image ids are paths relative to `root`; classes keep the publisher's order. Calling a split
    reads the publisher's lists. It raises `UserError` for what is missing in the copy or cannot be
    read.
    """
    published = REGISTRY.find(name)
    if not os.path.isdir(root):
        raise UserError(
            f"{name}:{root} names no folder; give the one that {published.title} was unpacked into "
            f"(it comes from {published.source})."
        )
    splits = {}
    for split in published.splits:
        splits[split] = Split(
            read=partial(_raw, published, root, split),
            taken_from=f"the publisher's lists ({split})",
            count=partial(_count, published, root, split),
        )
    return Source(splits=splits)


def _count(published: Published, root: str, split: str) -> int:
    return sum(1 for _ in _raw(published, root, split).examples())


def _raw(published: Published, root: str, split: str) -> Raw:
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
            f"The lists of {copy.title} in {root} are not as they were published ({reason}); get "
            f"them again from {copy.source}."
        ) from error
    # A folder that was not unpacked is one sentence, not as many unreadable images.
    for folder in sorted({os.path.dirname(image.path) for image in found.images}):
        copy.folder(folder)

    def examples() -> Iterator[Found]:
        return iter(rows)

    files = [*copy.used, *(os.path.join(root, image.path) for image in found.images)]
    return Raw(
        where=f"{published.name}:{root} ({split})",
        class_names=class_names,
        superclass=published.superclass,
        stamp=f"{file_stamp(files, root)} {published.name} {split}",
        examples=examples,
        few_shot=published.few_shot,
    )
