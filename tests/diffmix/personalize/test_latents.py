"""The latent cache: what the VAE says, kept on disk."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffmix.generator.base_model import load_base, to_tensor
from diffmix.images import decode
from diffmix.personalize.latents import LatentCache


@pytest.mark.parametrize("flip", [False, True])
def test_a_sample_is_a_draw_from_the_vaes_posterior(tiny_model, tiny_real, flip):
    vae = load_base(tiny_model, "cpu", torch.float32).vae
    cache = LatentCache(vae, tiny_real, 32, flip)
    assert len(cache) == 12
    assert cache.shape == (4, 8, 8)
    noise = np.random.default_rng(0).standard_normal(cache.shape, dtype=np.float32)
    for index, mirrored in ((0, False), (11, flip)):
        pixels = to_tensor(decode(tiny_real.image_bytes(index)), 32)[None]
        with torch.no_grad():
            posterior = vae.encode(pixels.flip(-1) if mirrored else pixels).latent_dist
        expected = (
            posterior.mean[0].numpy() + posterior.std[0].numpy() * noise
        ) * vae.config.scaling_factor
        assert (
            np.abs(cache.sample(index, mirrored, noise) - expected).max()
            < 2e-3 * np.abs(expected).max()
        )


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
    assert cache.sample(399, False, np.zeros((4, 128, 128), np.float32)).shape == (4, 128, 128)
