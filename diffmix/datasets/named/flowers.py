"""Oxford Flowers-102, in the split of its publisher and in that of the paper's code."""

import numpy as np

from diffmix.datasets.named.published import Listed, Published, PublishedCopy, Split

_SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
# The publisher names the classes on the data set's page only, in the order of their labels.
FLOWERS = [
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea",
    "english marigold", "tiger lily", "moon orchid", "bird of paradise", "monkshood",
    "globe thistle", "snapdragon", "colt's foot", "king protea", "spear thistle", "yellow iris",
    "globe-flower", "purple coneflower", "peruvian lily", "balloon flower", "giant white arum lily",
    "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth", "corn poppy",
    "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya",
    "cape flower", "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil",
    "sword lily", "poinsettia", "bolero deep blue", "wallflower", "marigold", "buttercup",
    "oxeye daisy", "common dandelion", "petunia", "wild pansy", "primula", "sunflower",
    "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia", "pink-yellow dahlia",
    "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush", "californian poppy",
    "osteospermum", "spring crocus", "bearded iris", "windflower", "tree poppy", "gazania",
    "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus",
    "toad lily", "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose",
    "tree mallow", "magnolia", "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm",
    "ball moss", "foxglove", "bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia",
    "blanket flower", "trumpet creeper", "blackberry lily",
]  # fmt: skip


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


DATA_SETS = (
    Published(
        name="flowers",
        title="Oxford Flowers-102",
        superclass="flower",
        source=_SOURCE,
        read=flowers,
    ),
    Published(
        name="flowers-half",
        title="Oxford Flowers-102",
        superclass="flower",
        source=_SOURCE,
        read=flowers_half,
    ),
)
