"""Food-101."""

from diffmix.datasets.named.published import Listed, Published, PublishedCopy, Split


def food101(copy: PublishedCopy, split: str) -> Split:
    """Food-101: `meta/train.txt` and `meta/test.txt`, 75,750 and 25,250 images; class names are
    those of `labels.txt`.
    """
    names = dict(zip(copy.lines("meta/classes.txt"), copy.lines("meta/labels.txt"), strict=True))
    lines = copy.lines(f"meta/{split}.txt")
    return Split(
        list(names.values()),
        [Listed(f"images/{line}.jpg", names[line.split("/")[0]]) for line in lines],
    )


DATA_SETS = (
    Published(
        name="food101",
        title="Food-101",
        superclass="food",
        source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        read=food101,
    ),
)
