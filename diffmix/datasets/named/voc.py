"""Pascal VOC, one class an image: its segmentation sets and its larger sets for classification."""

import xml.etree.ElementTree as ElementTree

import numpy as np
from PIL import Image

from diffmix.datasets.named.published import Listed, Published, PublishedCopy, Split

_SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/"
# The names that the annotations have, in the order of the masks' values from 1, and those of the
# paper's code, as people say them.
VOC = {
    "aeroplane": "airplane", "bicycle": "bicycle", "bird": "bird", "boat": "boat",
    "bottle": "bottle", "bus": "bus", "car": "car", "cat": "cat", "chair": "chair", "cow": "cow",
    "diningtable": "dining table", "dog": "dog", "horse": "horse", "motorbike": "motorcycle",
    "person": "person", "pottedplant": "potted plant", "sheep": "sheep", "sofa": "sofa",
    "train": "train", "tvmonitor": "television",
}  # fmt: skip
_VOID = 255  # the border around objects in VOC's masks


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


DATA_SETS = (
    Published(
        name="voc",
        title="Pascal VOC",
        superclass="object",
        source=_SOURCE,
        read=voc,
    ),
    Published(
        name="voc-main",
        title="Pascal VOC",
        superclass="object",
        source=_SOURCE,
        read=voc_main,
    ),
)
