"""MixUp and CutMix (timm's) on batches whose labels may already be soft."""

from __future__ import annotations

import numpy as np
import torch
from timm.data import Mixup

from diffmix.config import TrainConfig


class BatchMix:
    """With probability `train.mix_probability`, mixes a batch with its reverse (the reference's
    baselines; alone or with mixes).

    Does nothing where neither `train.mixup_alpha` nor `train.cutmix_alpha` is above 0.
    """

    def __init__(self, config: TrainConfig, num_classes: int):
        # `multi_label` is timm's word for labels that are rows already.
        self._mixup = (
            Mixup(
                config.mixup_alpha,
                config.cutmix_alpha,
                prob=config.mix_probability,
                num_classes=num_classes,
                label_smoothing=0.0,
                multi_label=True,
            )
            if config.mixup_alpha or config.cutmix_alpha
            else None
        )

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, *seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`images` float [B, 3, S, S] with B even (changed in place), `labels` float32 [B, C]; the
        same `seed` mixes the same way.
        """
        if self._mixup is None:
            return images, labels
        np.random.seed(
            np.random.SeedSequence(seed).generate_state(1)[0]
        )  # timm draws from numpy's global generator
        return self._mixup(images, labels)
