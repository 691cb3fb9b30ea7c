"""Each option of the training transform changes what comes out."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffmix.classifier.model import describe
from diffmix.classifier.transforms import train_transform
from diffmix.config import TrainConfig

PLAIN = {
    "model_name": "resnet10t",
    "pretrained": False,
    "resolution": 32,
    "resize": 40,
    "flip": False,
}


def crops(picture: Image.Image, **settings) -> torch.Tensor:
    config = TrainConfig(**PLAIN, **settings)
    transform = train_transform(config, describe(config, ["a"]))
    torch.manual_seed(0)
    return torch.stack([transform(picture) for _ in range(50)])


def test_resized_crops_differ_in_size_and_padded_ones_only_in_place():
    # A white disc on gray: its area in the crop says how much the picture was enlarged. No crop of
    # 32 of 40 pixels cuts it.
    y, x = np.mgrid[:40, :40]
    disc = np.where((x - 20) ** 2 + (y - 20) ** 2 < 25, 255, 128).astype(np.uint8)
    picture = Image.fromarray(disc).convert("RGB")
    areas = {
        resized: (crops(picture, resized_crop=resized, crop_padding=0)[:, 0] > 1.5).sum((1, 2))
        for resized in (True, False)
    }
    assert areas[False].min() == areas[False].max()
    assert areas[True].max() > 3 * areas[False].max()
    assert crops(picture, resized_crop=True).shape == (50, 3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        ({"color_jitter": 0.4, "hue": 0.0}, False),
        ({"color_jitter": 0.4}, True),
        ({"hue": 0.5}, True),
    ],
)
def test_hue(settings, moves):
    """Of a red picture only another hue makes blue more than green: brightness, contrast and
    saturation keep the two alike.
    """
    red = crops(Image.new("RGB", (40, 40), (200, 40, 40)), crop_padding=0, **settings)
    config = TrainConfig(**PLAIN)
    mean, std = (
        torch.tensor(v)[:, None, None]
        for v in (describe(config, ["a"]).mean, describe(config, ["a"]).std)
    )
    pixels = red * std + mean
    assert ((pixels[:, 1] - pixels[:, 2]).abs().max() > 0.02) == moves
