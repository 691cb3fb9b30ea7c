"""How each publisher lays a data set out: one function per data set, from a copy and `train`, `val`
or `test` to its images.

Each docstring says which images form the splits. Where the paper's code splits in another way than
the publisher, both can be had (`flowers` and `flowers_half`).
"""

import csv
import xml.etree.ElementTree as ElementTree

import numpy as np
from PIL import Image

from diffmix.datasets.published import Listed, PublishedCopy, Split

# The publisher names the classes on the data set's page only, in the order of their labels.
FLOWERS = [
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily", "moon orchid",
    "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea", "spear thistle", "yellow iris",
    "globe-flower", "purple coneflower", "peruvian lily", "balloon flower", "giant white arum lily", "fire lily", "pincushion flower",
    "fritillary", "red ginger", "grape hyacinth", "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke",
    "sweet william", "carnation", "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya",
    "cape flower", "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia",
    "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia", "wild pansy", "primula",
    "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia", "pink-yellow dahlia", "cautleya spicata",
    "japanese anemone", "black-eyed susan", "silverbush", "californian poppy", "osteospermum", "spring crocus", "bearded iris",
    "windflower", "tree poppy", "gazania", "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus",
    "toad lily", "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia", "cyclamen",
    "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea", "camellia", "mallow",
    "mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
]  # fmt: skip

# The names that the annotations have, in the order of the masks' values from 1, and those of the
# paper's code, as people say them.
VOC = {
    "aeroplane": "airplane", "bicycle": "bicycle", "bird": "bird", "boat": "boat", "bottle": "bottle", "bus": "bus", "car": "car",
    "cat": "cat", "chair": "chair", "cow": "cow", "diningtable": "dining table", "dog": "dog", "horse": "horse",
    "motorbike": "motorcycle", "person": "person", "pottedplant": "potted plant", "sheep": "sheep", "sofa": "sofa", "train": "train",
    "tvmonitor": "television",
}  # fmt: skip
_VOID = 255  # the border around objects in VOC's masks


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


def aircraft(copy: PublishedCopy, split: str) -> Split:
    """FGVC-Aircraft at the level of the 100 variants: `trainval` is train (6,667 images), `test` is
    test (3,333).
    """
    variants = copy.pairs(f"data/images_variant_{'trainval' if split == 'train' else 'test'}.txt")
    return Split(
        copy.lines("data/variants.txt"),
        [Listed(f"data/images/{number}.jpg", name) for number, name in variants.items()],
    )


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
    return _numbered(found, dict(enumerate(map(str, names), start=1)))


def dogs(copy: PublishedCopy, split: str) -> Split:
    """Stanford Dogs: `train_list.mat` and `test_list.mat`, 12,000 and 8,580 images.

    A class is named like its folder without the WordNet number: `n02097658-silky_terrier` is `silky
    terrier`.
    """
    paths, labels = copy.mat(f"{split}_list.mat", "file_list", "labels")
    found = [(f"Images/{path}", int(label)) for path, label in zip(paths, labels, strict=True)]
    return _numbered(
        found,
        {label: path.split("/")[1].partition("-")[2].replace("_", " ") for path, label in found},
    )


def flowers(copy: PublishedCopy, split: str) -> Split:
    """Oxford Flowers-102 as published: `trnid` and `valid` of `setid.mat` are train (2,040 images),
    `tstid` is test (6,149).

    The paper's code does not use these lists: see `flowers_half`.
    """
    images = _flower_images(copy)
    train, val, test = copy.mat("setid.mat", "trnid", "valid", "tstid")
    numbers = [*train, *val] if split == "train" else [*test]
    return Split(FLOWERS, [images[int(number)] for number in numbers])


def flowers_half(copy: PublishedCopy, split: str) -> Split:
    """Oxford Flowers-102 as the paper's code splits it: half of every class at random is train, the
    rest is test.

    Its generator and seed (0) are used, so the images are the same. It has about 40 training images
    per class instead of 20.
    """
    images = _flower_images(copy).values()
    rng = np.random.default_rng(0)
    chosen: list[Listed] = []
    for name in FLOWERS:
        members = [image for image in images if image.class_name == name]
        order, half = rng.permutation(len(members)), len(members) // 2
        chosen += [members[index] for index in (order[:half] if split == "train" else order[half:])]
    return Split(FLOWERS, chosen)


def _flower_images(copy: PublishedCopy) -> dict[int, Listed]:
    (labels,) = copy.mat("imagelabels.mat", "labels")
    return {
        number: Listed(f"jpg/image_{number:05d}.jpg", FLOWERS[int(label) - 1])
        for number, label in enumerate(labels, start=1)
    }


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
    return _numbered(
        [(f"images/{image}.jpg", int(columns.split()[0])) for image, columns in rows.items()], names
    )


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


def voc(copy: PublishedCopy, split: str) -> Split:
    """Pascal VOC (2007 to 2012) as in the paper's code: the segmentation sets, `train` as train and
    `val` as test.

    VOC 2012 has 1,464 and 1,449 of these. An image's one class is that of the object that covers
    most pixels in `SegmentationObject/`.
    """
    names = dict(enumerate(VOC.values(), start=1))
    images = []
    for name in copy.lines(f"ImageSets/Segmentation/{'train' if split == 'train' else 'val'}.txt"):
        objects, classes = (
            _mask(copy, f"{folder}/{name}.png")
            for folder in ("SegmentationObject", "SegmentationClass")
        )
        pixels = np.bincount(objects.ravel(), minlength=_VOID + 1)
        pixels[[0, _VOID]] = 0
        if not pixels.any():
            raise ValueError(f"{name} shows no object")
        images.append(
            Listed(f"JPEGImages/{name}.jpg", names[int(classes[objects == pixels.argmax()][0])])
        )
    return Split(list(names.values()), images)


def voc_main(copy: PublishedCopy, split: str) -> Split:
    """Pascal VOC (2007 to 2012), the larger sets for classification: an image's one class is that
    of its largest box.

    Train is `train` and test is `val` of `ImageSets/Main/` (VOC 2012: 5,717 and 5,823); where the
    annotations of `test` are there (VOC 2007), train is `trainval` and test is `test` (5,011 and
    4,952). Objects marked difficult do not count.
    """
    test = copy.lines("ImageSets/Main/test.txt") if copy.has("ImageSets/Main/test.txt") else []
    has_test = bool(test) and all(copy.has(f"Annotations/{name}.xml") for name in test)
    train_list, test_list = ("trainval", "test") if has_test else ("train", "val")
    images = []
    for name in copy.lines(f"ImageSets/Main/{train_list if split == 'train' else test_list}.txt"):
        annotation = ElementTree.parse(copy.file(f"Annotations/{name}.xml")).getroot()
        objects = [
            found
            for found in annotation.iterfind("object")
            if found.findtext("difficult", "0").strip() != "1"
        ]
        if objects:
            images.append(
                Listed(
                    f"JPEGImages/{name}.jpg",
                    VOC[max(objects, key=_area).findtext("name", "").strip()],
                )
            )
    return Split(list(VOC.values()), images)


def _mask(copy: PublishedCopy, path: str) -> np.ndarray:
    with Image.open(copy.file(path)) as image:
        return np.asarray(image)


def _area(found: ElementTree.Element) -> float:
    left, top, right, bottom = (
        float(found.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return (right - left) * (bottom - top)


def _numbered(found: list[tuple[str, int]], names: dict[int, str]) -> Split:
    """A split of (path, label) pairs whose labels are numbers with these names."""
    return Split(
        [names[label] for label in sorted(names)],
        [Listed(path, names[label]) for path, label in found],
    )
