"""Image transforms of training and evaluation: PIL RGB in, normalized float32 [3, resolution,
resolution] out.
"""

from __future__ import annotations

from torchvision import transforms as T

from diffmix.classifier.model import Classifier
from diffmix.config import TrainConfig


def train_transform(config: TrainConfig, model: Classifier) -> T.Compose:
    """Resize, then the random steps that `config` switches on, padded (or resized) crop, flip (the
    reference's order).
    """
    steps: list = (
        [] if config.resized_crop else [T.Resize(model.resize or model.resolution, antialias=True)]
    )
    if config.rotate or config.translate or config.scale:
        translate = (config.translate, config.translate) if config.translate else None
        scale = (1 - config.scale, 1 + config.scale) if config.scale else None
        steps.append(
            T.RandomAffine(
                config.rotate, translate, scale, interpolation=T.InterpolationMode.BILINEAR
            )
        )
    if config.resized_crop:
        steps.append(T.RandomResizedCrop(model.resolution, antialias=True))
    else:
        steps.append(
            T.RandomCrop(model.resolution, padding=config.crop_padding, pad_if_needed=True)
        )
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
    """Resize the shorter side, center crop, normalize."""
    resize = T.Resize(model.resize or model.resolution, antialias=True)
    return T.Compose(
        [resize, T.CenterCrop(model.resolution), T.ToTensor(), T.Normalize(model.mean, model.std)]
    )
