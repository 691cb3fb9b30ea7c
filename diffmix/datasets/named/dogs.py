"""Stanford Dogs."""

from diffmix.datasets.named.published import Published, PublishedCopy, Split, numbered_split


def dogs(copy: PublishedCopy, split: str) -> Split:
    """Stanford Dogs: `train_list.mat` and `test_list.mat`, 12,000 and 8,580 images.

    A class is named like its folder without the WordNet number: `n02097658-silky_terrier` is `silky
    terrier`.
    """
    paths, labels = copy.mat(f"{split}_list.mat", "file_list", "labels")
    found = [(f"Images/{path}", int(label)) for path, label in zip(paths, labels, strict=True)]
    return numbered_split(
        found,
        {label: path.split("/")[1].partition("-")[2].replace("_", " ") for path, label in found},
    )


DATA_SETS = (
    Published(
        name="dogs",
        title="Stanford Dogs",
        superclass="dog",
        source="http://vision.stanford.edu/aditya86/ImageNetDogs/",
        read=dogs,
    ),
)
