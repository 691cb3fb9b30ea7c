"""What each training step sees, drawn so that a run can be cut, resumed and spread over workers
without a change.

Randomness is counter-based: sample `slot` of step `step` has a stream of its own. So a resumed run
goes on exactly as the uninterrupted one would have, and two workers with batches of 2 see what one
worker with batches of 4 sees.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

    from diffmix.config import PersonalizeConfig
    from diffmix.personalize.latents import LatentCache

_STREAM = 0x636F6E63657074  # keeps these streams apart from the mix plan's under the same seed


class Batch(NamedTuple):
    """`n` samples of one step, and as many of prior images after them where there are some."""

    latents: torch.Tensor
    """float32 [n, C, h, w], scaled for the UNet."""
    noise: torch.Tensor
    """float32 [n, C, h, w]"""
    timesteps: torch.Tensor
    """int64 [n]"""
    prompts: torch.Tensor
    """int64 [n]: `label * templates + template`; after the last class come the empty prompt and the
    prior images' prompt.
    """
    weights: torch.Tensor
    """float32 [n]: what each sample's loss is multiplied with; the loss is their sum."""


class Batches:
    """Draws the batches of a run. `labels` int [N] are the classes of the cached images; `prior`
    are the cached prior images.
    """

    def __init__(
        self,
        cache: LatentCache,
        labels: np.ndarray,
        config: PersonalizeConfig,
        num_timesteps: int,
        seed: int,
        global_batch: int,
        prior: LatentCache | None = None,
    ):
        self.cache = cache
        self.prior = prior
        self.labels = np.asarray(labels)
        self.config = config
        self.num_timesteps = num_timesteps
        self.seed = seed
        self.global_batch = global_batch
        self._members = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def draw(self, step: int, slots: range, num_classes: int) -> Batch:
        """The samples `slots` (a part of 0..global_batch-1) of a step. The mean over them is the
        loss, plus the prior images' mean times its weight.
        """
        import torch

        samples = [self._real_sample(step, slot, num_classes) for slot in slots]
        weights = [1 / len(slots)] * len(slots)
        if self.prior:
            samples += [self._prior_sample(self.prior, step, slot, num_classes) for slot in slots]
            weights += [self.config.prior_weight / len(slots)] * len(slots)
        latents, noises, timesteps, prompts = zip(*samples, strict=True)
        return Batch(
            torch.from_numpy(np.stack(latents)),
            torch.from_numpy(np.stack(noises)),
            torch.tensor(timesteps),
            torch.tensor(prompts),
            torch.tensor(weights),
        )

    def _real_sample(
        self, step: int, slot: int, num_classes: int
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        templates = len(self.config.prompts)
        rng = self._generator(0, 0, slot, step)
        choose, within, flip, template, drop, time = rng.random(6)
        index = self._image(step, slot, choose, within)
        prompt = int(self.labels[index]) * templates + int(template * templates)
        if drop < self.config.prompt_dropout:
            prompt = num_classes * templates
        return *self._noised(self.cache, index, flip, rng), int(time * self.num_timesteps), prompt

    def _prior_sample(
        self, prior: LatentCache, step: int, slot: int, num_classes: int
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        rng = self._generator(0, 2, slot, step)
        choose, flip, time = rng.random(3)
        prompt = num_classes * len(self.config.prompts) + 1
        return (
            *self._noised(prior, int(choose * len(prior)), flip, rng),
            int(time * self.num_timesteps),
            prompt,
        )

    def _noised(
        self, cache: LatentCache, index: int, flip: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A latent of an image and the noise that is to be added, float32 [C, h, w] each."""
        shape = cache.shape
        latent = cache.sample(
            index, self.config.flip and flip < 0.5, rng.standard_normal(shape, dtype=np.float32)
        )
        noise = rng.standard_normal(shape, dtype=np.float32)
        if self.config.noise_offset:
            noise = noise + np.float32(self.config.noise_offset) * rng.standard_normal(
                (shape[0], 1, 1), dtype=np.float32
            )
        return latent, noise

    def _image(self, step: int, slot: int, choose: float, within: float) -> int:
        if self.config.class_balanced:
            members = self._members[int(choose * len(self._members))]
            return int(members[int(within * len(members))])
        # Without replacement within each pass over the images.
        epoch, place = divmod(step * self.global_batch + slot, len(self.labels))
        return int(self._order(epoch)[place])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return self._generator(0, 1, 0, epoch).permutation(len(self.labels))

    def _generator(self, *counter: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(key=[self.seed, _STREAM], counter=list(counter))
        )
