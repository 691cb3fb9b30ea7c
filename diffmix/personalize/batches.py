"""What each training step sees. The draws do not change when a run is cut, resumed, or spread over
workers.

Randomness is counter-based (Philox): sample `slot` of step `step` has a stream of its own. So a
resumed run continues exactly as the uninterrupted one would have, and two workers with batches of 2
see what one worker with batches of 4 sees.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor

if TYPE_CHECKING:
    from diffmix.config import PersonalizeConfig
    from diffmix.personalize.latents import LatentCache

_STREAM = 0x636F6E63657074  # keeps these streams apart from the mix plan's under the same seed
# The first counter after the 0 of each stream: what it is for.
_REAL, _ORDER, _PRIOR = 0, 1, 2


class Batch(NamedTuple):
    """The n samples of one step; with prior preservation as many prior images after them."""

    latents: Float32[Tensor, "n channels height width"]
    """Scaled for the UNet."""
    noise: Float32[Tensor, "n channels height width"]
    timesteps: Int64[Tensor, " n"]
    prompts: Int64[Tensor, " n"]
    """`label * templates + template`. After the last class come the empty prompt and the prior
    images' prompt.
    """
    weights: Float32[Tensor, " n"]
    """Each sample's loss is multiplied by its weight; the loss is their sum."""


class _Sample(NamedTuple):
    latent: Float32[np.ndarray, "channels height width"]
    noise: Float32[np.ndarray, "channels height width"]
    timestep: int
    prompt: int


class Batches:
    """Draws the batches of a run. `labels` are the classes of the cached images; `prior` caches the
    prior images.
    """

    def __init__(
        self,
        cache: LatentCache,
        labels: Int[np.ndarray, " images"],
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
        """The samples `slots` (some of 0..global_batch-1) of a step. The loss is their mean, plus
        `prior_weight` times the mean of the prior images.
        """
        share = 1 / len(slots)
        samples = [self._real_sample(step, slot, num_classes) for slot in slots]
        weights = [share] * len(slots)
        if self.prior:
            samples += [self._prior_sample(self.prior, step, slot, num_classes) for slot in slots]
            weights += [self.config.prior_weight / len(slots)] * len(slots)
        latents, noises, timesteps, prompts = zip(*samples, strict=True)
        return Batch(
            latents=torch.from_numpy(np.stack(latents)),
            noise=torch.from_numpy(np.stack(noises)),
            timesteps=torch.tensor(timesteps),
            prompts=torch.tensor(prompts),
            weights=torch.tensor(weights),
        )

    def _real_sample(self, step: int, slot: int, num_classes: int) -> _Sample:
        templates = len(self.config.prompts)
        rng = self._generator(_REAL, slot, step)
        choose, within, flip, template, drop, time = rng.random(6)
        index = self._image(step, slot, choose, within)
        prompt = int(self.labels[index]) * templates + int(template * templates)
        if drop < self.config.prompt_dropout:
            prompt = num_classes * templates
        latent, noise = self._noised(self.cache, index, flip, rng)
        return _Sample(latent, noise, int(time * self.num_timesteps), prompt)

    def _prior_sample(self, prior: LatentCache, step: int, slot: int, num_classes: int) -> _Sample:
        rng = self._generator(_PRIOR, slot, step)
        choose, flip, time = rng.random(3)
        prompt = num_classes * len(self.config.prompts) + 1
        latent, noise = self._noised(prior, int(choose * len(prior)), flip, rng)
        return _Sample(latent, noise, int(time * self.num_timesteps), prompt)

    def _noised(
        self, cache: LatentCache, index: int, flip: float, rng: np.random.Generator
    ) -> tuple[
        Float32[np.ndarray, "channels height width"], Float32[np.ndarray, "channels height width"]
    ]:
        """A latent of an image, and the noise to add to it."""
        shape = cache.shape
        posterior_noise = rng.standard_normal(shape, dtype=np.float32)
        flipped = bool(self.config.flip and flip < 0.5)
        latent = cache.sample(index, flipped, posterior_noise)
        noise = rng.standard_normal(shape, dtype=np.float32)
        if self.config.noise_offset:
            offset = rng.standard_normal((shape[0], 1, 1), dtype=np.float32)
            noise = noise + np.float32(self.config.noise_offset) * offset
        return latent, noise

    def _image(self, step: int, slot: int, choose: float, within: float) -> int:
        if self.config.class_balanced:
            members = self._members[int(choose * len(self._members))]
            return int(members[int(within * len(members))])
        # Without replacement within each pass over the images.
        epoch, position = divmod(step * self.global_batch + slot, len(self.labels))
        return int(self._order(epoch)[position])

    def _shuffled(self, epoch: int) -> Int64[np.ndarray, " images"]:
        return self._generator(_ORDER, 0, epoch).permutation(len(self.labels))

    def _generator(self, purpose: int, slot: int, step: int) -> np.random.Generator:
        counter = [0, purpose, slot, step]
        return np.random.Generator(np.random.Philox(key=[self.seed, _STREAM], counter=counter))
