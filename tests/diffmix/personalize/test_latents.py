"""Latents: what the VAE says, kept on disk or made when it is asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from diffmix.generator.base_model import load_base
from diffmix.personalize.crops import View, cached_places, pixels_of
from diffmix.personalize.latents import FreshLatents, LatentCache


def posterior(vae, images, view: View, cropped: bool) -> np.ndarray:
    """Mean and standard deviation, of the image alone."""
    with torch.no_grad():
        found = vae.encode(pixels_of(images, view, 32, cropped)[None]).latent_dist
    return torch.cat([found.mean, found.std]).numpy()


def seen(latents, *views: View) -> np.ndarray:
    return latents.posteriors(range(len(views)), 0, lambda step: views).numpy()


@pytest.fixture
def vae(tiny_model):
    return load_base(tiny_model, "cpu", torch.float32).vae


@pytest.mark.parametrize("flip", [False, True])
def test_the_cache_has_the_vaes_posteriors(vae, tiny_real, flip):
    cache = LatentCache(vae, tiny_real, 32, flip)
    assert len(cache) == 12
    assert cache.scale == vae.config.scaling_factor
    views = [View(0, False, 0.0), View(11, flip, 0.0), View(5, flip, 0.0)]
    for found, view in zip(seen(cache, *views), views, strict=True):
        expected = posterior(vae, tiny_real, view, cropped=False)
        assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_a_cache_of_crops_has_those_of_its_places(vae, tiny_real):
    cache = LatentCache(vae, tiny_real, 32, flip=True, crops=3, seed=4)
    assert cache.cropped
    found = [seen(cache, View(5, True, (number + 0.5) / 3))[0] for number in range(3)]
    for place, each in zip(cached_places(5, 3, seed=4), found, strict=True):
        expected = posterior(vae, tiny_real, View(5, True, place), cropped=True)
        assert np.abs(each - expected).max() < 2e-3 * np.abs(expected).max()
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("count", [1, 3, 9])
def test_fresh_latents_are_those_of_each_view(vae, tiny_real, count):
    """Whatever is encoded together, and from whichever step on."""
    rng = np.random.default_rng(1)
    slots = range(4, 4 + count)
    steps = [
        [View(int(rng.choice([5, 5, 2])), bool(rng.random() < 0.5), rng.random()) for _ in slots]
        for _ in range(30)
    ]
    whole = FreshLatents(vae, tiny_real, 32)
    made = [whole.posteriors(slots, step, steps.__getitem__).numpy() for step in range(12)]
    for views, found in zip(steps, made, strict=False):
        expected = np.stack([posterior(vae, tiny_real, view, cropped=True) for view in views])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    resumed = FreshLatents(vae, tiny_real, 32)
    for step in range(5, 12):
        again = resumed.posteriors(slots, step, steps.__getitem__).numpy()
        assert np.array_equal(again, made[step])


def test_fresh_latents_are_encoded_many_at_once(tiny_real):
    class Counted(LargeVae):
        sizes: ClassVar[list[int]] = []

        def encode(self, pixels):
            self.sizes.append(len(pixels))
            return super().encode(pixels)

    fresh = FreshLatents(Counted(), tiny_real, 32)
    for step in range(8):
        for slots in (range(0, 2), range(4, 6)):  # two batches of a step
            fresh.posteriors(slots, step, lambda step: [View(0, False, 0.0)] * 2)
    assert Counted.sizes == [8] * 4


class LargeVae:
    """Stands in for a VAE of large latents, so that the cache has a size that can be seen."""

    config = SimpleNamespace(scaling_factor=1.0)
    device, dtype = torch.device("cpu"), torch.float32

    def encode(self, pixels):
        level = pixels.mean(dim=(1, 2, 3))[:, None, None, None]
        return SimpleNamespace(
            latent_dist=SimpleNamespace(
                mean=level.expand(-1, 4, 128, 128), std=level.expand(-1, 4, 128, 128)
            )
        )


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux's account of memory"
)
def test_its_size_is_not_bounded_by_main_memory(tiny_real):
    def private() -> int:
        """Bytes of this process that the system could not drop."""
        line = next(
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("RssAnon")
        )
        return int(line.split()[1]) * 1024

    class Many:
        def __len__(self):
            return 400

        def image_bytes(self, index):
            return tiny_real.image_bytes(index % 12)

    before = private()
    cache = LatentCache(LargeVae(), Many(), 32, flip=False)
    size = 400 * 2 * 4 * 128 * 128 * 2
    grown = private() - before
    print(f"{size / 1e6:.0f} MB of latents, {grown / 1e6:.0f} MB more of private memory")
    assert size > 90e6
    assert grown < size / 2
    assert seen(cache, View(399, False, 0.0)).shape == (1, 2, 4, 128, 128)
