"""Stanford Cars."""

from diffmix.datasets.named.published import Published, PublishedCopy, Split, numbered_split


def cars(copy: PublishedCopy, split: str) -> Split:
    """Stanford Cars: 8,144 and 8,041 images, by the lists of `devkit/` or, where there is none, of
    `cars_annos.mat`.

    With `devkit/` the images are in `cars_train/` and `cars_test/` and the test labels in
    `cars_test_annos_withlabels.mat`, beside it or in it; `cars_annos.mat` has all labels, for
    images in `car_ims/`.
    """
    if copy.has("cars_annos.mat") and not copy.has("devkit"):
        names, rows = copy.mat("cars_annos.mat", "class_names", "annotations")
        found = [
            (str(row["relative_im_path"]), int(row["class"]))
            for row in rows
            if bool(row["test"]) == (split == "test")
        ]
    else:
        (names,) = copy.mat("devkit/cars_meta.mat", "class_names")
        test = "cars_test_annos_withlabels.mat"
        file = (
            "devkit/cars_train_annos.mat"
            if split == "train"
            else f"devkit/{test}"
            if copy.has(f"devkit/{test}")
            else test
        )
        (rows,) = copy.mat(file, "annotations")
        found = [(f"cars_{split}/{row['fname']}", int(row["class"])) for row in rows]
    return numbered_split(found, dict(enumerate(map(str, names), start=1)))


DATA_SETS = (
    Published(
        name="cars",
        title="Stanford Cars",
        superclass="car",
        source="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        read=cars,
    ),
)
