"""Images to latents and back, through the pipeline's VAE."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffmix.generator.base_model import Pipeline, to_tensor
from diffmix.generator.device.memory import Parts, decoded_at_once
from diffmix.images import decode as decode_image

_CACHE_BYTES = 256 * 2**20  # 4,000 sources of 512 px in half precision
_ENCODED_AT_ONCE = {"cpu": 1, "cuda": 8}
"""Sources in a call of the VAE's encoder. A GPU is not busy with one; a CPU is."""
_LARGER = "use a GPU with more memory, or a smaller --model.resolution"

Original = bytes | Image.Image
"""A source: an image file's bytes, or an image."""


class Prepared(NamedTuple):
    """A source that is ready to be encoded."""

    original: Original
    image: Image.Image | None
    """RGB, of the model's size. None: its latents are there already."""
    size: tuple[int, int] | None
    """Width and height of the original in pixels; None as before."""


class Source(NamedTuple):
    """An encoded source image."""

    mean: Float[Tensor, "1 channels height width"]
    """The mean of the VAE's posterior, on the VAE's device and in its dtype."""
    std: Float[Tensor, "1 channels height width"] | None
    """None: the VAE has no posterior, and its latents are the mean."""
    size: tuple[int, int]
    """Width and height of the original in pixels."""


class LatentImages:
    """Encodes sources, keeping them in a cache, and decodes mixes. Owned by one mixer.

    `prepare` may be called from any thread, all else from one at a time. A compiled decoder sees
    parts of one size, at most `fixed` images; None: it is not compiled.
    """

    def __init__(
        self, pipe: Pipeline, resolution: int, device: torch.device, fixed: int | None = None
    ):
        self.vae, self.resolution, self.device = pipe.vae, resolution, device
        self.fixed = fixed is not None
        most = decoded_at_once(resolution, self.vae.dtype, device)
        of_one = f"for one image of {resolution} px"
        self.decoder = Parts(f"The VAE's decoder {of_one}", _LARGER, min(most, fixed or most))
        # An encoder needs less than a decoder.
        self.encoder = Parts(
            f"The VAE's encoder {of_one}", _LARGER, min(most, _ENCODED_AT_ONCE[device.type])
        )
        self._cache: OrderedDict[str, Source] = OrderedDict()
        self._cached_bytes = 0

    def prepare(self, source_id: str, image: Original | None) -> Prepared:
        """A source, decoded and resized, unless its latents are in the cache. Raises `ValueError`
        without image.
        """
        if image is None:
            raise ValueError(f"the mix of {source_id!r} has no source image")
        if source_id in self._cache:
            return Prepared(image, None, None)
        return self._resized(image)

    def encode(self, source_id: str, image: Original | Prepared | None) -> Source:
        """One encoded source, as `encode_all` gives it."""
        return self.encode_all([source_id], [image])[0]

    def encode_all(
        self, source_ids: Sequence[str], images: Sequence[Original | Prepared | None]
    ) -> list[Source]:
        """The encoded sources, from the cache where they are there. Raises `ValueError` without
        image.

        The encoder's calls are all of one size, filled up with copies of their last source. Without
        that the cache would decide how many are encoded together, and with it the last bits.
        """
        found: dict[str, Source] = {}
        missing: dict[str, Prepared] = {}
        for source_id, image in zip(source_ids, images, strict=True):
            if source_id in self._cache:
                self._cache.move_to_end(source_id)
                found[source_id] = self._cache[source_id]
            elif source_id not in missing:
                one = image if isinstance(image, Prepared) else self.prepare(source_id, image)
                # Between `prepare` and now the cache may have dropped it.
                missing[source_id] = one if one.image else self._resized(one.original)
        ready = list(missing.values())
        parts = self.encoder.of(len(ready), lambda rows: self._encoded(ready[rows]))
        for source_id, source in zip(missing, itertools.chain(*parts), strict=True):
            found[source_id] = source
            self._keep(source_id, source)
        return [found[source_id] for source_id in source_ids]

    def _resized(self, image: Original) -> Prepared:
        rgb = decode_image(image) if isinstance(image, bytes) else image.convert("RGB")
        side = (self.resolution, self.resolution)
        resized = rgb if rgb.size == side else rgb.resize(side, Image.Resampling.BILINEAR)
        return Prepared(image, resized, rgb.size)

    def _encoded(self, sources: list[Prepared]) -> list[Source]:
        """The latents of one part of the sources."""
        pixels = [
            to_tensor(source.image, self.resolution, self.device)
            for source in sources
            if source.image is not None
        ]
        pixels += [pixels[-1]] * ((self.encoder.most or 1) - len(pixels))
        output = self.vae.encode(torch.stack(pixels).to(self.vae.dtype))
        made = []
        for row, source in enumerate(sources):
            assert source.size is not None
            if hasattr(output, "latent_dist"):
                one = output.latent_dist
                mean, std = one.mean[row : row + 1].clone(), one.std[row : row + 1].clone()
            else:
                mean, std = output.latents[row : row + 1].clone(), None
            made.append(Source(mean, std, source.size))
        return made

    def _keep(self, source_id: str, source: Source) -> None:
        self._cache[source_id] = source
        size = 2 * source.mean.nbytes
        self._cached_bytes += size
        while self._cached_bytes > _CACHE_BYTES:
            self._cache.popitem(last=False)
            self._cached_bytes -= size

    def decode(
        self, latents: Float[Tensor, "n channels height width"]
    ) -> Iterator[UInt8[np.ndarray, "part side side 3"]]:
        """RGB pixels in parts that add up to n images of `resolution` pixels a side.

        A GPU decodes the next part while the caller works on one. Raises `UserError` where one
        image does not fit in memory.
        """
        waiting: tuple[Tensor, torch.cuda.Event | None] | None = None
        for launched in self.decoder.of(len(latents), lambda rows: self._decoded(latents[rows])):
            if waiting:
                yield _arrived(*waiting)
            waiting = launched
        if waiting:
            yield _arrived(*waiting)

    def _decoded(
        self, latents: Float[Tensor, "part channels height width"]
    ) -> tuple[Tensor, torch.cuda.Event | None]:
        count = len(latents)
        if self.fixed and self.decoder.most:
            missing = self.decoder.most - count
            latents = torch.cat([latents, latents[-1:].expand(missing, -1, -1, -1)])
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        values = self.vae.decode(scaled, return_dict=False)[0][:count].float()
        values = ((values / 2 + 0.5).clamp(0, 1) * 255).round()
        return self._to_host(values.to(torch.uint8).permute(0, 2, 3, 1).contiguous())

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
