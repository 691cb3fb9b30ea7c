"""MixUp and CutMix on samples whose labels may already be soft: as timm does them, and as the
reference implementation does.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32
from timm.data import Mixup
from torch import Tensor

from diffmix.classifier.cmo import Paste
from diffmix.config import TrainConfig


class BatchMix:
    """Mixes the samples of a batch with each other, with probability `train.mix_probability`.

    MixUp and CutMix are the reference implementation's baselines; they can also be combined with
    Diff-Mix. With `train.mix_form timm` the batch is mixed with its own reverse. With `reference`
    MixUp mixes it with a permutation of it; CutMix is not done here but on single samples, by
    `CutMixSampler`. Without `train.mixup_alpha` and `train.cutmix_alpha` a batch stays as it is.
    """

    def __init__(self, config: TrainConfig, num_classes: int):
        self._config = config
        self._mixup = None
        if config.mix_form == "timm" and (config.mixup_alpha or config.cutmix_alpha):
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

        For timm the batch must be even, and `images` are changed in place.
        """
        if self._mixup is not None:
            # timm draws from numpy's global generator.
            np.random.seed(np.random.SeedSequence(seed).generate_state(1)[0])
            return self._mixup(images, labels)
        if self._config.mix_form == "reference" and self._config.mixup_alpha:
            return self._permuted(images, labels, np.random.default_rng(seed))
        return images, labels

    def _permuted(
        self,
        images: Float[Tensor, "batch 3 height width"],
        labels: Float32[Tensor, "batch classes"],
        generator: np.random.Generator,
    ) -> tuple[Float[Tensor, "batch 3 height width"], Float32[Tensor, "batch classes"]]:
        if generator.random() >= self._config.mix_probability:
            return images, labels
        kept = float(generator.beta(self._config.mixup_alpha, self._config.mixup_alpha))
        order = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        mixed = kept * images + (1 - kept) * images[order]
        return mixed, kept * labels + (1 - kept) * labels[order.to(labels.device)]


class CutMixSampler:
    """Draws what CutMix pastes in the reference implementation's form.

    Each sample gets a box with probability `train.mix_probability`. The box has a place and an area
    of its own (Beta(alpha, alpha)), and is cut from a sample that is drawn from the whole set, so
    with probability p from a mix. Every draw is a function of (seed, epoch, place in the epoch) and
    the same on all ranks.
    """

    mixes = True

    def __init__(self, real_size: int, config: TrainConfig, seed: int):
        self._real_size, self._config, self._seed = real_size, config, seed

    def epoch(self, epoch: int, steps: int, batch_size: int) -> list[Paste | None]:
        """See `cmo.Pastes.epoch`."""
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 5, epoch]))
        total, alpha = steps * batch_size, self._config.cutmix_alpha
        pasted = generator.random(total) < self._config.mix_probability
        kept = generator.beta(alpha, alpha, total)
        x, y = generator.random((2, total))
        rows = generator.integers(self._real_size, size=total)
        seeds = generator.integers(2**62, size=total)
        return [
            Paste(
                row=int(rows[place]),
                seed=int(seeds[place]),
                kept=float(kept[place]),
                x=float(x[place]),
                y=float(y[place]),
            )
            if pasted[place]
            else None
            for place in range(total)
        ]


def uses_pasted_cutmix(config: TrainConfig) -> bool:
    """Whether CutMix is on in the form that `CutMixSampler` draws."""
    return config.mix_form == "reference" and config.cutmix_alpha > 0
