"""Image transforms of training and evaluation.

They map a PIL image (RGB) to a float32 tensor [3, resolution, resolution], normalized with the
model's mean and standard deviation.
"""

from __future__ import annotations

from torchvision import transforms as T

from diffmix.classifier.model import Classifier
from diffmix.config import TrainConfig


def train_transform(config: TrainConfig, model: Classifier) -> T.Compose:
    """Resize, the random steps that `config` switches on, crop and flip.

    The order is that of the reference implementation. The crop is random, after padding; with
    `config.resized_crop` its size is random too.
    """
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
    steps += [T.ToTensor(), T.Normalize(model.mean, model.std)]
    if config.erase:
        steps.append(T.RandomErasing(config.erase))
    return T.Compose(steps)


def eval_transform(model: Classifier) -> T.Compose:
    """Resize the shorter side, crop the center, normalize."""
    normalize = T.Normalize(model.mean, model.std)
    return T.Compose([_resize(model), T.CenterCrop(model.resolution), T.ToTensor(), normalize])


def _resize(model: Classifier) -> T.Resize:
    return T.Resize(model.resize or model.resolution, antialias=True)
