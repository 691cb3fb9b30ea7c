"""Images to latents and back, through the pipeline's VAE."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffmix.generator.base_model import Pipeline, to_tensor
from diffmix.images import decode as decode_image

_CACHE_BYTES = 256 * 2**20  # 4,000 sources of 512 px in half precision
# The VAE's decoder needs about 8 GB for this many at once in half precision.
_DECODE_PIXELS = 8 * 512 * 512


class Source(NamedTuple):
    """An encoded source image."""

    mean: Float[Tensor, "1 channels height width"]
    """The mean of the VAE's posterior, on the VAE's device and in its dtype."""
    std: Float[Tensor, "1 channels height width"] | None
    """None: the VAE has no posterior, and its latents are the mean."""
    size: tuple[int, int]
    """Width and height of the original in pixels."""


class LatentImages:
    """Encodes sources, keeping them in a cache, and decodes mixes. Owned by one mixer."""

    def __init__(self, pipe: Pipeline, resolution: int, device: torch.device):
        self.vae, self.resolution, self.device = pipe.vae, resolution, device
        self._cache: OrderedDict[str, Source] = OrderedDict()
        self._cached_bytes = 0

    def encode(self, source_id: str, image: bytes | Image.Image | None) -> Source:
        """The encoded source, from the cache where it is there. Raises `ValueError` without image.

        Sources are encoded one by one. In a batch, the cache would decide what is encoded together,
        and with it the last bits.
        """
        cached = self._cache.get(source_id)
        if cached is not None:
            self._cache.move_to_end(source_id)
            return cached
        if image is None:
            raise ValueError(f"the mix of {source_id!r} has no source image")
        rgb = decode_image(image) if isinstance(image, bytes) else image.convert("RGB")
        pixels = to_tensor(rgb, self.resolution, self.device)[None].to(self.vae.dtype)
        output = self.vae.encode(pixels)
        if hasattr(output, "latent_dist"):
            encoded = Source(output.latent_dist.mean, output.latent_dist.std, rgb.size)
        else:
            encoded = Source(output.latents, None, rgb.size)
        self._cache[source_id] = encoded
        size = 2 * encoded.mean.nbytes
        self._cached_bytes += size
        while self._cached_bytes > _CACHE_BYTES:
            self._cache.popitem(last=False)
            self._cached_bytes -= size
        return encoded

    def decode(
        self, latents: Float[Tensor, "n channels height width"]
    ) -> Iterator[UInt8[np.ndarray, "part side side 3"]]:
        """RGB pixels in parts that add up to n images of `resolution` pixels a side.

        A GPU decodes the next part while the caller works on one.
        """
        waiting: tuple[Tensor, torch.cuda.Event | None] | None = None
        for part in latents.split(max(1, _DECODE_PIXELS // self.resolution**2)):
            scaled = (part / self.vae.config.scaling_factor).to(self.vae.dtype)
            values = self.vae.decode(scaled, return_dict=False)[0].float()
            values = ((values / 2 + 0.5).clamp(0, 1) * 255).round()
            launched = self._to_host(values.to(torch.uint8).permute(0, 2, 3, 1).contiguous())
            if waiting:
                yield _arrived(*waiting)
            waiting = launched
        if waiting:
            yield _arrived(*waiting)

    def _to_host(self, pixels: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Start to copy to main memory; the event says when all has arrived."""
        if self.device.type == "cpu":
            return pixels, None
        host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
        host.copy_(pixels, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return host, event


def _arrived(host: Tensor, event: torch.cuda.Event | None) -> np.ndarray:
    if event is not None:
        event.synchronize()
    return host.numpy()
