import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # read by `datasets` when it is imported, which no test has done yet
)


@pytest.fixture
def image_file():
    """A function that gives the file of a small random image, another one for each seed."""

    def make(seed: int, format: str = "PNG", side: int = 8) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(
            np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        ).save(buffer, format)
        return buffer.getvalue()

    return make


@pytest.fixture
def image_folder(tmp_path, image_file):
    """A function that writes `{class name: number of images}` as an image folder and gives its
    path.
    """

    def make(counts: dict[str, int], name: str = "photos"):
        seed = 0
        for class_name, count in counts.items():
            (tmp_path / name / class_name).mkdir(parents=True)
            for index in range(count):
                (tmp_path / name / class_name / f"{index:02d}.png").write_bytes(image_file(seed))
                seed += 1
        return tmp_path / name

    return make


@pytest.fixture
def published(tmp_path):
    """A function that writes a miniature copy of a published data set in its publisher's own layout
    and gives its folder.

    The names are those of `named.names`, `cars in one list` and `voc-main with a test set`.
    """

    def make(name: str, folder: str = "copy"):
        root = tmp_path / folder
        root.mkdir(parents=True)
        WRITERS[name](root)
        return root

    return make


ALBATROSS, TANAGER = "001.Black_footed_Albatross", "139.Scarlet_Tanager"


class Writer:
    """Writes files of a miniature copy; every image differs from the others."""

    def __init__(self, root):
        self.root = root
        self.written = 0

    def text(self, path, *lines):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text("".join(f"{line}\n" for line in lines))

    def images(self, *paths):
        for path in paths:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            self.written += 1
            Image.new("RGB", (8, 6), (self.written, 0, 0)).save(self.root / path)

    def mat(self, path, **variables):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        savemat(self.root / path, variables)


def cells(texts):
    """A MATLAB cell array of texts, n x 1."""
    array = np.empty((len(texts), 1), dtype=object)
    array[:, 0] = texts
    return array


def structs(rows, *names):
    """A MATLAB struct array, 1 x n."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for index, row in enumerate(rows):
        array[0, index] = tuple(row)
    return array


def write_cub(root):
    write = Writer(root)
    paths = [
        f"{name}/{name[4:]}_{number:04d}_{796100 + number}.jpg"
        for name in (ALBATROSS, TANAGER)
        for number in range(3)
    ]
    write.text("images.txt", *(f"{number} {path}" for number, path in enumerate(paths, 1)))
    write.text("image_class_labels.txt", "1 1", "2 1", "3 1", "4 2", "5 2", "6 2")
    write.text("classes.txt", f"1 {ALBATROSS}", f"2 {TANAGER}")
    write.text("train_test_split.txt", "1 0", "2 1", "3 1", "4 1", "5 0", "6 1")
    write.images(*(f"images/{path}" for path in paths))


def write_waterbirds(root):
    write = Writer(root)
    rows = [  # y: waterbird; place: water; the places of the backgrounds are not in the copy
        (f"{ALBATROSS}/a.jpg", 1, 0, 1),
        (f"{ALBATROSS}/b.jpg", 1, 1, 0),
        (f"{ALBATROSS}/c.jpg", 1, 2, 0),
        (f"{ALBATROSS}/d.jpg", 1, 2, 1),
        (f"{TANAGER}/e.jpg", 0, 0, 0),
        (f"{TANAGER}/f.jpg", 0, 2, 1),
        (f"{TANAGER}/g.jpg", 0, 2, 0),
    ]
    lines = [
        f"{number},{path},{y},{split},{place},/o/ocean/{number}.jpg"
        for number, (path, y, split, place) in enumerate(rows, 1)
    ]
    write.text("metadata.csv", "img_id,img_filename,y,split,place,place_filename", *lines)
    write.images(*(row[0] for row in rows))


def write_aircraft(root):
    write = Writer(root)
    write.text("data/variants.txt", "707-320", "DHC-8-100", "F/A-18", "Global Express")
    trainval = [
        "1025794 707-320",
        "0043211 F/A-18",
        "1340192 Global Express",
        "0056978 DHC-8-100",
        "0698580 707-320",
    ]
    test = ["0062765 Global Express", "0034309 F/A-18"]
    write.text("data/images_variant_trainval.txt", *trainval)
    write.text("data/images_variant_train.txt", *trainval[:4])
    write.text("data/images_variant_val.txt", *trainval[4:])
    write.text("data/images_variant_test.txt", *test)
    write.images(*(f"data/images/{line.split()[0]}.jpg" for line in [*trainval, *test]))


def write_cars(root):
    write = Writer(root)
    names = cells(
        [
            "AM General Hummer SUV 2000",
            "Ram C/V Cargo Van Minivan 2012",
            "smart fortwo Convertible 2012",
        ]
    ).T
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    train = [
        (1, 2, 7, 5, label, f"{number:05d}.jpg") for number, label in enumerate([2, 1, 3, 2], 1)
    ]
    test = [(1, 2, 7, 5, label, f"{number:05d}.jpg") for number, label in enumerate([3, 1], 1)]
    write.mat("devkit/cars_meta.mat", class_names=names)
    write.mat("devkit/cars_train_annos.mat", annotations=structs(train, *fields))
    write.mat("cars_test_annos_withlabels.mat", annotations=structs(test, *fields))
    write.images(
        *(f"cars_train/{row[-1]}" for row in train), *(f"cars_test/{row[-1]}" for row in test)
    )


def write_cars_in_one_list(root):
    write = Writer(root)
    rows = [
        (f"car_ims/{number:06d}.jpg", 1, 2, 7, 5, label, test)
        for number, (label, test) in enumerate([(1, 0), (2, 1), (2, 0), (1, 1)], 1)
    ]
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    write.mat(
        "cars_annos.mat",
        annotations=structs(rows, *fields),
        class_names=cells(["Acura RL Sedan 2012", "BMW M3 Coupe 2012"]).T,
    )
    write.images(*(row[0] for row in rows))


def write_dogs(root):
    write = Writer(root)
    lists = {
        "train": [
            "n02086240-Shih-Tzu/n02086240_1.jpg",
            "n02097658-silky_terrier/n02097658_7.jpg",
            "n02097658-silky_terrier/n02097658_8.jpg",
        ],
        "test": ["n02086240-Shih-Tzu/n02086240_2.jpg", "n02097658-silky_terrier/n02097658_9.jpg"],
    }
    for split, paths in lists.items():
        labels = np.array([[5 if "Shih" in path else 51] for path in paths], dtype=np.uint8)
        write.mat(
            f"{split}_list.mat",
            file_list=cells(paths),
            annotation_list=cells([path[:-4] for path in paths]),
            labels=labels,
        )
        write.images(*(f"Images/{path}" for path in paths))


def write_flowers(root):
    write = Writer(root)
    labels = np.random.default_rng(1).permutation(np.repeat([1, 2, 77], 7)).astype(np.uint8)
    order = np.random.default_rng(2).permutation(len(labels)) + 1
    third = len(labels) // 3
    write.mat("imagelabels.mat", labels=labels[None])
    write.mat(
        "setid.mat",
        trnid=order[None, :third],
        valid=order[None, third : 2 * third],
        tstid=order[None, 2 * third :],
    )
    write.images(*(f"jpg/image_{number:05d}.jpg" for number in range(1, len(labels) + 1)))


def write_pets(root):
    write = Writer(root)
    trainval = [
        "Abyssinian_100 1 1 1",
        "Abyssinian_102 1 1 1",
        "american_bulldog_100 2 2 1",
        "Birman_9 3 1 2",
    ]
    test = ["american_bulldog_203 2 2 1", "Birman_1 3 1 2", "Abyssinian_2 1 1 1"]
    header = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", "#SPECIES: 1:Cat 2:Dog"]
    write.text("annotations/list.txt", *header, *trainval, *test)
    write.text("annotations/trainval.txt", *trainval)
    write.text("annotations/test.txt", *test)
    write.images(*(f"images/{line.split()[0]}.jpg" for line in [*trainval, *test]))


def write_food101(root):
    write = Writer(root)
    write.text("meta/classes.txt", "apple_pie", "beef_carpaccio")
    write.text("meta/labels.txt", "Apple pie", "Beef carpaccio")
    lists = {
        "train": ["apple_pie/1005649", "apple_pie/1014775", "beef_carpaccio/1"],
        "test": ["beef_carpaccio/10", "apple_pie/1011328"],
    }
    for split, names in lists.items():
        write.text(f"meta/{split}.txt", *names)
        by_class = {
            name: [path for path in names if path.startswith(name)]
            for name in ("apple_pie", "beef_carpaccio")
        }
        write.text(f"meta/{split}.json", json.dumps(by_class))
        write.images(*(f"images/{name}.jpg" for name in names))


def mask(*values):
    """A mask as VOC's are, with a palette: rows of pixels."""
    image = Image.fromarray(np.array(values, dtype=np.uint8), "P")
    image.putpalette([value for index in range(256) for value in (index, index, 255 - index)])
    return image


def annotation(*objects):
    """An annotation as VOC's are; objects are (name, box, difficult), and each has a part with a
    box of its own.
    """
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>999</xmax><ymax>999</ymax></bndbox>"
    part = f"<part><name>head</name>{box}</part>"
    found = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult>{part}<bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box, difficult in objects
    ]
    return f"<annotation><folder>VOC2012</folder>{''.join(found)}</annotation>"


def write_voc(root):
    write = Writer(root)
    sets = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
    masks = {  # the instances, and the value that each has in the mask of classes
        "2007_000032": (
            [[1, 1, 255, 0], [2, 2, 2, 0]],
            {1: 1, 2: 15},
        ),  # a person covers more than an aeroplane
        "2007_000039": (
            [[0, 0, 255, 255], [0, 0, 1, 255]],
            {1: 20},
        ),  # one pixel of a tvmonitor; background and border are more
        "2007_000033": (
            [[1, 1, 0, 2], [3, 0, 0, 2]],
            {1: 20, 2: 15, 3: 15},
        ),  # the largest object, not the largest class
    }
    for split, names in sets.items():
        write.text(f"ImageSets/Segmentation/{split}.txt", *names)
        for name in names:
            write.images(f"JPEGImages/{name}.jpg")
            objects, classes = masks[name]
            for folder, values in (
                ("SegmentationObject", objects),
                (
                    "SegmentationClass",
                    [[classes.get(value, value) for value in row] for row in objects],
                ),
            ):
                (root / folder).mkdir(exist_ok=True)
                mask(*values).save(root / folder / f"{name}.png")


def write_voc_main(root):
    write = Writer(root)
    found = {
        "2008_000002": [("chair", (1, 1, 20, 400), 0), ("tvmonitor", (34, 11, 448, 293), 0)],
        "2008_000003": [("person", (46, 11, 500, 333), 1), ("train", (62, 190, 83.5, 243), 0)],
        "2008_000007": [("boat", (1, 230, 428, 293), 0), ("person", (1, 1, 100, 400), 0)],
        "2008_000008": [("horse", (53, 87, 471, 420), 1)],
        "2008_000009": [("cow", (464, 71, 500, 284), 0)],
    }
    sets = {
        "train": ["2008_000002", "2008_000003", "2008_000008"],
        "val": ["2008_000007"],
        "test": ["2008_000009"],
    }
    for split, names in {**sets, "trainval": sets["train"] + sets["val"]}.items():
        write.text(f"ImageSets/Main/{split}.txt", *names)
    for name, objects in found.items():
        write.images(f"JPEGImages/{name}.jpg")
        if name not in sets["test"]:
            write.text(f"Annotations/{name}.xml", annotation(*objects))


def write_voc_main_with_a_test_set(root):
    write_voc_main(root)
    Writer(root).text("Annotations/2008_000009.xml", annotation(("cow", (464, 71, 500, 284), 0)))


def write_diffda_cub(root):
    (root / "CUB_200_2011").mkdir()
    write_cub(root / "CUB_200_2011")


def write_diffda_aircraft(root):
    (root / "fgvc-aircraft-2013b").mkdir()
    write_aircraft(root / "fgvc-aircraft-2013b")


WRITERS = {
    "aircraft": write_aircraft, "aircraft-train": write_aircraft, "cars": write_cars,
    "cars in one list": write_cars_in_one_list,
    "diffda-aircraft": write_diffda_aircraft, "diffda-cub": write_diffda_cub,
    "cub": write_cub, "dogs": write_dogs, "flowers": write_flowers, "flowers-half": write_flowers,
    "food101": write_food101, "pets": write_pets, "voc": write_voc, "voc-main": write_voc_main,
    "voc-main with a test set": write_voc_main_with_a_test_set, "waterbirds": write_waterbirds,
}  # fmt: skip
