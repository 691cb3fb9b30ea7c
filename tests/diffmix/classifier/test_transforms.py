"""Each option of the training transform changes its result."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from diffmix.classifier.model import describe
from diffmix.classifier.transforms import Normalize, eval_transform, train_transform
from diffmix.config import TrainConfig

PLAIN = {
    "model_name": "resnet10t",
    "pretrained": False,
    "resolution": 32,
    "resize": 40,
    "flip": False,
}


def crops(image: Image.Image, **settings) -> torch.Tensor:
    config = TrainConfig(**PLAIN, **settings)
    transform = train_transform(config, describe(config, ["a"]))
    torch.manual_seed(0)
    return torch.stack([transform(image) for _ in range(50)])


def test_resized_crops_differ_in_size_and_padded_ones_only_in_place():
    # A white disc on gray. Its area in the crop shows how much the image was enlarged: no crop of
    # 32 out of 40 pixels cuts the disc.
    y, x = np.mgrid[:40, :40]
    disc = np.where((x - 20) ** 2 + (y - 20) ** 2 < 25, 255, 128).astype(np.uint8)
    image = Image.fromarray(disc).convert("RGB")
    areas = {}
    for resized in (True, False):
        found = crops(image, resized_crop=resized, crop_padding=0)
        areas[resized] = (found[:, 0] > 1.5).sum((1, 2))
    assert areas[False].min() == areas[False].max()
    assert areas[True].max() > 3 * areas[False].max()
    assert crops(image, resized_crop=True).shape == (50, 3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        ({"color_jitter": 0.4, "hue": 0.0}, False),
        ({"color_jitter": 0.4}, True),
        ({"hue": 0.5}, True),
    ],
)
def test_hue(settings, moves):
    """Only another hue makes a red image more blue than green.

    Brightness, contrast and saturation keep blue and green alike.
    """
    red = crops(Image.new("RGB", (40, 40), (200, 40, 40)), crop_padding=0, **settings)
    description = describe(TrainConfig(**PLAIN), ["a"])
    mean, std = torch.tensor(description.mean), torch.tensor(description.std)
    pixels = red * std[:, None, None] + mean[:, None, None]
    assert ((pixels[:, 1] - pixels[:, 2]).abs().max() > 0.02) == moves


def seen(mode: str) -> tuple[float, float]:
    """Shares of the columns of a 500x333 image that the test crop shows, and of the whole image."""
    config = TrainConfig(**{**PLAIN, "resolution": 224, "resize": 256}, resize_mode=mode)
    description = describe(config, ["a"])
    ramp = np.tile(np.linspace(0, 255, 500), (333, 1)).astype(np.uint8)
    crop = eval_transform(description)(Image.fromarray(ramp).convert("RGB"))[0]
    crop = crop * description.std[0] + description.mean[0]
    columns = float(crop.max() - crop.min())
    rows = 224 / 256
    return columns, columns * rows


def test_how_much_of_an_image_the_test_crop_sees():
    assert seen("shorter")[1] == pytest.approx(0.510, abs=0.005)
    assert seen("squash")[1] == pytest.approx(0.766, abs=0.005)


def test_training_images_are_squashed_too():
    image = Image.new("RGB", (90, 30), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 45, 30))
    settings = {"crop_padding": 0}
    squashed = crops(image, resize_mode="squash", **settings)
    assert all(one[0].min() < 0 < one[0].max() for one in squashed), "each crop shows both halves"
    shorter = crops(image, **settings)
    assert any(one[0].min() == one[0].max() for one in shorter)


def test_rand_augment_is_a_function_of_torchs_seed_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8))
    found = crops(image, rand_augment=True)
    assert found.shape == (50, 3, 32, 32)
    random.seed(5)
    np.random.seed(5)
    assert torch.equal(crops(image, rand_augment=True), found)
    assert not torch.equal(found, crops(image, resized_crop=True, color_jitter=0.4, hue=0.0))


@pytest.mark.parametrize(
    "settings", [{"flip": True, "color_jitter": 0.4}, {"rand_augment": True}, {"erase": 1.0}, None]
)
def test_bytes_are_normalized_to_the_same_bits_as_by_torchvision(settings):
    """Of a quarter of the size, unless something was erased. None: as tests see images."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    config = TrainConfig(**{**PLAIN, **(settings or {})})
    model = describe(config, ["a"])
    found = []
    for as_bytes in (False, True):
        usual = eval_transform(model, as_bytes)
        transform = usual if settings is None else train_transform(config, model, as_bytes)
        torch.manual_seed(3)
        random.seed(3)
        found.append(torch.stack([transform(image) for _ in range(6)]))
    erased = settings == {"erase": 1.0}
    assert found[1].dtype == (torch.float32 if erased else torch.uint8)
    assert torch.equal(Normalize(model, "cpu")(found[1]), found[0])
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, None]
    stock = transforms.Normalize(model.mean, model.std)(every.float().div(255))
    assert torch.equal(Normalize(model, "cpu")(every), stock)
