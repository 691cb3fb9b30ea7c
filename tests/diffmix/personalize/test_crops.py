"""What a training step sees of an image, against torchvision's transforms, which the paper's code
uses.
"""

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from diffmix.images import decode
from diffmix.personalize.crops import View, cached_places, crop, pixels_of
from diffmix.personalize.settings import all_square


class Files:
    """Images of the given sizes."""

    def __init__(self, *sizes):
        rng = np.random.default_rng(0)
        self.files = []
        for width, height in sizes:
            file = io.BytesIO()
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "PNG")
            self.files.append(file.getvalue())

    def __len__(self):
        return len(self.files)

    def image_bytes(self, index):
        return self.files[index]


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (40, 48), (32, 71), (100, 33), (64, 64)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_view_is_what_the_references_transforms_give(size, flipped):
    images, side = Files(size), 32
    resized = transforms.Resize(side, interpolation=transforms.InterpolationMode.BILINEAR)(
        decode(images.image_bytes(0))
    )
    spare = max(resized.size) - side
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    for offset in {0, spare // 2, spare}:
        top, left = (offset, 0) if size[1] > size[0] else (0, offset)
        expected = functional.crop(resized, top, left, side, side)
        expected = to_tensor(functional.hflip(expected) if flipped else expected)
        view = View(0, flipped, (offset + 0.5) / (spare + 1))
        torch.testing.assert_close(pixels_of(images, view, side, cropped=True), expected)


def test_each_offset_is_equally_likely():
    """A ramp of 41 gray columns: a crop's first column tells its offset, from 0 to 9."""
    ramp = Image.fromarray(np.tile(np.arange(41, dtype=np.uint8), (32, 1))).convert("RGB")
    places = (np.arange(1000) + 0.5) / 1000
    seen = Counter(crop(ramp, 32, place).getpixel((0, 0))[0] for place in places)
    assert seen == dict.fromkeys(range(10), 100)
    assert crop(ramp, 32, np.nextafter(1.0, 0)).getpixel((31, 0))[0] == 40


def test_a_square_image_has_one_view(tiny_real):
    squashed = pixels_of(tiny_real, View(0, False, 0.0), 24, cropped=False)
    for place in (0.0, 0.3, 0.99):
        assert torch.equal(pixels_of(tiny_real, View(0, False, place), 24, cropped=True), squashed)
    assert not all_square(tiny_real)  # number 5 is not
    assert all_square(Files((32, 32), (7, 7)))


def test_the_first_image_that_is_not_square_ends_the_search():
    class Counted(Files):
        read = 0

        def image_bytes(self, index):
            self.read += 1
            return super().image_bytes(index)

    images = Counted((32, 32), (32, 31), (32, 32))
    assert not all_square(images)
    assert images.read == 2


def test_a_turn_by_exif_turns_the_longer_side():
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6
    ramp = np.tile(np.arange(48, dtype=np.uint8) * 5, (32, 1))
    Image.fromarray(ramp).convert("RGB").save(file, "PNG", exif=exif)

    class One:
        def __len__(self):
            return 1

        def image_bytes(self, index):
            return file.getvalue()

    top = pixels_of(One(), View(0, False, 0.0), 32, cropped=True)
    bottom = pixels_of(One(), View(0, False, 0.99), 32, cropped=True)
    assert torch.equal(top[:, 16:], bottom[:, :16])
    assert not torch.equal(top, bottom)


def test_cached_places_are_one_in_each_part_of_the_range():
    places = np.array([cached_places(index, 8, seed=3) for index in range(500)])
    assert ((places * 8).astype(int) == np.arange(8)).all()
    within = places * 8 % 1
    assert abs(within.mean() - 0.5) < 0.02  # its deviation is .0046
    assert cached_places(7, 8, 3) == cached_places(7, 8, 3)
    assert cached_places(7, 8, 3) != cached_places(8, 8, 3)
    assert cached_places(7, 8, 3) != cached_places(7, 8, 4)
