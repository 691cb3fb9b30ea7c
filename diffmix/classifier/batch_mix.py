"""MixUp and CutMix, as timm does them, on batches whose labels may already be soft."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32
from timm.data import Mixup
from torch import Tensor

from diffmix.config import TrainConfig


class BatchMix:
    """Mixes a batch with its own reverse, with probability `train.mix_probability`.

    These are the reference implementation's baselines; they can also be combined with Diff-Mix.
    Without `train.mixup_alpha` and `train.cutmix_alpha` a batch stays as it is.
    """

    def __init__(self, config: TrainConfig, num_classes: int):
        self._mixup = None
        if config.mixup_alpha or config.cutmix_alpha:
            self._mixup = Mixup(
                config.mixup_alpha,
                config.cutmix_alpha,
                prob=config.mix_probability,
                num_classes=num_classes,
                label_smoothing=0.0,
                # timm's name for labels that are already one row of probabilities per image.
                multi_label=True,
            )

    def __call__(
        self,
        images: Float[Tensor, "batch 3 height width"],
        labels: Float32[Tensor, "batch classes"],
        *seed: int,
    ) -> tuple[Float[Tensor, "batch 3 height width"], Float32[Tensor, "batch classes"]]:
        """Images and labels after mixing. The same `seed` mixes the same way.

        The batch must be even. `images` are changed in place.
        """
        if self._mixup is None:
            return images, labels
        # timm draws from numpy's global generator.
        np.random.seed(np.random.SeedSequence(seed).generate_state(1)[0])
        return self._mixup(images, labels)
