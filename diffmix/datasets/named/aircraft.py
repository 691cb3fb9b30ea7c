"""FGVC-Aircraft."""

from diffmix.datasets.published import Listed, Published, PublishedCopy, Split


def aircraft(copy: PublishedCopy, split: str) -> Split:
    """FGVC-Aircraft at the level of the 100 variants: `trainval` is train (6,667 images), `test` is
    test (3,333).
    """
    variants = copy.pairs(f"data/images_variant_{'trainval' if split == 'train' else 'test'}.txt")
    return Split(
        copy.lines("data/variants.txt"),
        [Listed(f"data/images/{number}.jpg", name) for number, name in variants.items()],
    )


DATA_SETS = (
    Published(
        name="aircraft",
        title="FGVC-Aircraft",
        superclass="aircraft",
        source="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        read=aircraft,
    ),
)
