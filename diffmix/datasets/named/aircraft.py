"""FGVC-Aircraft, with and without the publisher's validation images."""

from functools import partial

from diffmix.datasets.named.published import Listed, Published, PublishedCopy, Split

_SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"


def aircraft(copy: PublishedCopy, split: str, train: str = "trainval") -> Split:
    """FGVC-Aircraft at the level of the 100 variants: `trainval` is train (6,667 images), `test` is
    test (3,333).

    `aircraft-train` trains on the publisher's part `train` alone (3,334 images), as the paper's
    code does; the part `val` is not used then.
    """
    variants = copy.pairs(f"data/images_variant_{train if split == 'train' else 'test'}.txt")
    return Split(
        copy.lines("data/variants.txt"),
        [Listed(f"data/images/{number}.jpg", name) for number, name in variants.items()],
    )


DATA_SETS = (
    Published(
        name="aircraft",
        title="FGVC-Aircraft",
        superclass="aircraft",
        source=_SOURCE,
        read=aircraft,
    ),
    Published(
        name="aircraft-train",
        title="FGVC-Aircraft",
        superclass="aircraft",
        source=_SOURCE,
        read=partial(aircraft, train="train"),
    ),
)
