"""Oxford-IIIT Pets."""

from diffmix.datasets.named.published import Published, PublishedCopy, Split, numbered_split


def pets(copy: PublishedCopy, split: str) -> Split:
    """Oxford-IIIT Pets, 37 breeds: `annotations/trainval.txt` is train (3,680 images), `test.txt`
    is test (3,669).

    A class is named like its images: `american_bulldog_100` is an `american bulldog`.
    """
    rows = copy.pairs(f"annotations/{'trainval' if split == 'train' else 'test'}.txt")
    names = {
        int(columns.split()[0]): image.rpartition("_")[0].replace("_", " ")
        for image, columns in rows.items()
    }
    return numbered_split(
        [(f"images/{image}.jpg", int(columns.split()[0])) for image, columns in rows.items()], names
    )


DATA_SETS = (
    Published(
        name="pets",
        title="Oxford-IIIT Pets",
        superclass="pet",
        source="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        read=pets,
    ),
)
