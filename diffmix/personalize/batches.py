"""What each training step sees. The draws do not change when a run is cut, resumed, or spread over
workers.

Randomness is counter-based (Philox): sample `slot` of step `step` has a stream of its own. So a
resumed run continues exactly as the uninterrupted one would have, and two workers with batches of 2
see what one worker with batches of 4 sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor

from diffmix.generator.device.transfer import sent
from diffmix.personalize.crops import View

if TYPE_CHECKING:
    from diffmix.config import PersonalizeConfig
    from diffmix.personalize.latents import LatentCache, Latents

_STREAM = 0x636F6E63657074  # keeps these streams apart from the mix plan's under the same seed
# The first counter after the 0 of each stream: what it is for.
_REAL, _ORDER, _PRIOR, _CROP = 0, 1, 2, 3


class Batch(NamedTuple):
    """The n samples of one step; with prior preservation as many prior images after them."""

    latents: Float32[Tensor, "n channels height width"]
    """Scaled for the UNet. They may be on a GPU; all else is on the CPU."""
    noise: Float32[Tensor, "n channels height width"]
    timesteps: Int64[Tensor, " n"]
    prompts: Int64[Tensor, " n"]
    """`label * templates + template`. After the last class come the empty prompt and the prior
    images' prompt.
    """
    weights: Float32[Tensor, " n"]
    """Each sample's loss is multiplied by its weight; the loss is their sum."""


class _Choice(NamedTuple):
    """What is drawn for a sample, but for its noise, which `rng` draws next."""

    view: View
    timestep: int
    prompt: int
    rng: np.random.Generator


class Batches:
    """Draws the batches of a run. `labels` are the classes of the images of `latents`; `prior` has
    the prior images.
    """

    def __init__(
        self,
        latents: Latents,
        labels: Int[np.ndarray, " images"],
        config: PersonalizeConfig,
        num_timesteps: int,
        seed: int,
        global_batch: int,
        prior: LatentCache | None = None,
    ):
        self.latents = latents
        self.prior = prior
        self.labels = np.asarray(labels)
        self.config = config
        self.num_timesteps = num_timesteps
        self.seed = seed
        self.global_batch = global_batch
        self._members = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def draw(
        self, step: int, slots: range, num_classes: int, divisor: float | None = None
    ) -> Batch:
        """The samples `slots` (some of 0..global_batch-1) of a step. The loss is their mean, plus
        `prior_weight` times the mean of as many prior images; with `divisor` it is their sums
        divided by that instead of their number.
        """
        divisor = divisor or len(slots)

        def real(step: int) -> list[_Choice]:
            return [self._real_choice(step, slot, num_classes) for slot in slots]

        def prior(step: int) -> list[_Choice]:
            return [self._prior_choice(step, slot, num_classes) for slot in slots]

        chosen = real(step)
        latents, noises = self._noised(self.latents, slots, step, chosen, real)
        weights = [1 / divisor] * len(slots)
        if self.prior:
            others = prior(step)
            more, more_noise = self._noised(self.prior, slots, step, others, prior)
            latents = torch.cat([latents, sent(more, latents.device)])
            noises = torch.cat([noises, more_noise])
            chosen += others
            weights += [self.config.prior_weight / divisor] * len(slots)
        return Batch(
            latents=latents,
            noise=noises,
            timesteps=torch.tensor([choice.timestep for choice in chosen]),
            prompts=torch.tensor([choice.prompt for choice in chosen]),
            weights=torch.tensor(weights),
        )

    def _real_choice(self, step: int, slot: int, num_classes: int) -> _Choice:
        templates = len(self.config.prompts)
        rng = self._generator(_REAL, slot, step)
        choose, within, flip, template, drop, time = rng.random(6)
        index = self._image(step, slot, choose, within)
        prompt = int(self.labels[index]) * templates + int(template * templates)
        if drop < self.config.prompt_dropout:
            prompt = num_classes * templates
        # A stream of its own: images without crops leave the other draws as they are.
        place = self._generator(_CROP, slot, step).random() if self.latents.cropped else 0.0
        view = View(index, bool(self.config.flip and flip < 0.5), place)
        return _Choice(view, int(time * self.num_timesteps), prompt, rng)

    def _prior_choice(self, step: int, slot: int, num_classes: int) -> _Choice:
        assert self.prior is not None
        rng = self._generator(_PRIOR, slot, step)
        choose, flip, time = rng.random(3)
        prompt = num_classes * len(self.config.prompts) + 1
        index = int(choose * len(self.prior))
        view = View(index, bool(self.config.flip and flip < 0.5), 0.0)
        return _Choice(view, int(time * self.num_timesteps), prompt, rng)

    def _noised(
        self,
        source: Latents,
        slots: range,
        step: int,
        chosen: list[_Choice],
        choices: Callable[[int], list[_Choice]],
    ) -> tuple[
        Float32[Tensor, "n channels height width"], Float32[Tensor, "n channels height width"]
    ]:
        """Draws from the posteriors of the chosen views, scaled for the UNet, where the posteriors
        are; and the noise to add to them, on the CPU. `choices(step)` are those of any step.
        """

        def views(at: int) -> list[View]:
            return [choice.view for choice in (chosen if at == step else choices(at))]

        mean, std = source.posteriors(slots, step, views).unbind(1)
        draws, noises = [], []
        for choice in chosen:
            shape, rng = tuple(mean.shape[1:]), choice.rng
            draws.append(rng.standard_normal(shape, dtype=np.float32))
            noise = rng.standard_normal(shape, dtype=np.float32)
            if self.config.noise_offset:
                offset = rng.standard_normal((shape[0], 1, 1), dtype=np.float32)
                noise = noise + np.float32(self.config.noise_offset) * offset
            noises.append(noise)
        drawn = sent(torch.from_numpy(np.stack(draws)), mean.device)
        return (mean + std * drawn) * source.scale, torch.from_numpy(np.stack(noises))

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
