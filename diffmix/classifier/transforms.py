"""Image transforms of training and evaluation.

They map a PIL image (RGB) to a float32 tensor [3, resolution, resolution], normalized with the
model's mean and standard deviation. With `as_bytes` they stop at uint8 where they can, and
`Normalize` does the rest for a whole batch, on the device, to the same bits.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from jaxtyping import Float32, Num
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as T

from diffmix.classifier.model import Classifier, input_layout
from diffmix.config import TrainConfig


def train_transform(config: TrainConfig, model: Classifier, as_bytes: bool = False) -> T.Compose:
    """Resize, the random steps that `config` switches on, crop and flip.

    The order is that of the reference implementation. The crop is random, after padding; with
    `config.resized_crop` its size is random too. With `config.erase` the result is float32 also
    with `as_bytes`: what is erased becomes the mean, which is no byte.
    """
    if config.rand_augment:
        return paco_transform(model, as_bytes)
    steps: list = []
    if not config.resized_crop:
        steps.append(_resize(model))
    if config.rotate or config.translate or config.scale:
        translate = (config.translate, config.translate) if config.translate else None
        scale = (1 - config.scale, 1 + config.scale) if config.scale else None
        bilinear = T.InterpolationMode.BILINEAR
        steps.append(T.RandomAffine(config.rotate, translate, scale, interpolation=bilinear))
    if config.resized_crop:
        steps.append(T.RandomResizedCrop(model.resolution, antialias=True))
    else:
        padding = config.crop_padding
        steps.append(T.RandomCrop(model.resolution, padding=padding, pad_if_needed=True))
    if config.flip:
        steps.append(T.RandomHorizontalFlip())
    hue = min(config.color_jitter / 4, 0.5) if config.hue is None else config.hue
    if config.color_jitter or hue:
        jitter = config.color_jitter
        steps.append(T.ColorJitter(jitter, jitter, jitter, hue))
    if config.invert:
        steps.append(T.RandomInvert(config.invert))
    steps += _to_tensor(model, as_bytes and not config.erase)
    if config.erase:
        steps.append(T.RandomErasing(config.erase))
    return T.Compose(steps)


def paco_transform(model: Classifier, as_bytes: bool = False) -> T.Compose:
    """The training transform of PaCo (Cui et al., ICCV 2021), which the reference implementation
    has as an option for long tails.

    After a crop of random size, half of the images get two steps of RandAugment at magnitude 10,
    the other half gray (20 %) and blur (50 %). All are flipped and get other colors.
    """
    from timm.data.auto_augment import rand_augment_transform

    fill = tuple(min(255, round(255 * mean)) for mean in model.mean)
    moves = {"translate_const": int(model.resolution * 0.45), "img_mean": fill}
    crop = T.RandomResizedCrop(model.resolution, antialias=True)
    colors = T.ColorJitter(0.4, 0.4, 0.4, 0.0)
    augmented = [
        crop,
        T.RandomHorizontalFlip(),
        colors,
        rand_augment_transform("rand-n2-m10-mstd0.5", moves),
    ]
    blurred = [
        crop,
        colors,
        T.RandomGrayscale(0.2),
        T.RandomApply([_Blur(0.1, 2.0)], 0.5),
        T.RandomHorizontalFlip(),
    ]
    either = T.RandomChoice([T.Compose(augmented), T.Compose(blurred)])
    return T.Compose([_SeededByTorch(either), *_to_tensor(model, as_bytes)])


def eval_transform(model: Classifier, as_bytes: bool = False) -> T.Compose:
    """Resize, crop the center, normalize."""
    crop = T.CenterCrop(model.resolution)
    return T.Compose([_resize(model), crop, *_to_tensor(model, as_bytes)])


class Normalize:
    """Makes of batches of a transform with `as_bytes` what it makes without, on one device."""

    def __init__(self, model: Classifier, device: torch.device | str):
        self.device = torch.device(device)
        self.layout = input_layout(self.device.type)
        # Divisors are tensors: a GPU multiplies by the reciprocal of a number.
        self.most = torch.tensor(255.0, device=self.device)
        self.mean = torch.tensor(model.mean, device=self.device)[:, None, None]
        self.std = torch.tensor(model.std, device=self.device)[:, None, None]

    def __call__(
        self, images: Num[Tensor, "batch 3 height width"]
    ) -> Float32[Tensor, "batch 3 height width"]:
        """The images on the device. Bytes are normalized there, float32 is so already."""
        images = images.to(self.device, non_blocking=True, memory_format=self.layout)
        if images.dtype != torch.uint8:
            return images
        return images.float().div_(self.most).sub_(self.mean).div_(self.std)


def _to_tensor(model: Classifier, as_bytes: bool) -> list:
    return [T.PILToTensor()] if as_bytes else [T.ToTensor(), T.Normalize(model.mean, model.std)]


def _resize(model: Classifier) -> T.Resize:
    side = model.resize or model.resolution
    return T.Resize((side, side) if model.resize_mode == "squash" else side, antialias=True)


class _SeededByTorch:
    """A transform that draws from Python's and NumPy's generators, as a function of torch's."""

    def __init__(self, transform: object):
        self.transform = transform

    def __call__(self, image: Image.Image) -> Image.Image:
        seed = int(torch.randint(2**31, ()))
        kept = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            return self.transform(image)  # type: ignore[operator]
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


class _Blur:
    """A Gaussian blur whose radius is uniform over [`least`, `most`] pixels."""

    def __init__(self, least: float, most: float):
        self.least, self.most = least, most

    def __call__(self, image: Image.Image) -> Image.Image:
        radius = self.least + (self.most - self.least) * float(torch.rand(()))
        return image.filter(ImageFilter.GaussianBlur(radius))
