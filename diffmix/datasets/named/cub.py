"""CUB-200-2011, and Waterbirds, which shows its birds on other backgrounds."""

import csv

from diffmix.datasets.named.published import Listed, Published, PublishedCopy, Split


def cub(copy: PublishedCopy, split: str) -> Split:
    """CUB-200-2011: the two parts of `train_test_split.txt`, 5,994 and 5,794 images. Classes are
    named like their folders.
    """
    names = copy.pairs("classes.txt")
    labels = copy.pairs("image_class_labels.txt")
    training = copy.pairs("train_test_split.txt")
    part = "1" if split == "train" else "0"
    paths = copy.pairs("images.txt").items()
    return Split(
        list(names.values()),
        [
            Listed(f"images/{path}", names[labels[key]])
            for key, path in paths
            if training[key] == part
        ],
    )


def waterbirds(copy: PublishedCopy, split: str) -> Split:
    """Waterbirds: `metadata.csv`'s splits 0, 1 and 2 (train, val, test), with CUB's species as
    classes as in the paper.

    The class is the image's folder, so that a classifier of CUB's species can be tested, and the
    group is `landbird on water` and so on. The test split (5,794 images) is CUB's own, on other
    backgrounds.
    """
    part = str(["train", "val", "test"].index(split))
    birds, places = ("landbird", "waterbird"), ("land", "water")
    with open(copy.file("metadata.csv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == part]
    images = [
        Listed(
            row["img_filename"],
            row["img_filename"].split("/")[0],
            f"{birds[int(row['y'])]} on {places[int(row['place'])]}",
        )
        for row in rows
    ]
    return Split(sorted({image.class_name for image in images}), images)


DATA_SETS = (
    Published(
        name="cub",
        title="CUB-200-2011",
        superclass="bird",
        source="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        read=cub,
    ),
    Published(
        name="waterbirds",
        title="Waterbirds",
        superclass="bird",
        source="https://github.com/kohpangwei/group_DRO",
        read=waterbirds,
        splits=("train", "val", "test"),
    ),
)
