"""The training images as the diffusion model sees them, encoded once before the first step."""

from __future__ import annotations

import tempfile
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Float16, Float32
from torch import Tensor

from diffmix.generator.base_model import to_tensor
from diffmix.images import decode

# Images in one call of the VAE. The number is fixed, so that rounding does not depend on the number
# of workers.
_BLOCK = 8


@runtime_checkable
class Images(Protocol):
    """Image files by number, such as a `RealSet`."""

    def __len__(self) -> int: ...

    def image_bytes(self, index: int) -> bytes: ...


@runtime_checkable
class Vae(Protocol):
    """What is needed of diffusers' `AutoencoderKL`."""

    config: Any
    device: torch.device
    dtype: torch.dtype

    def encode(self, pixels: Float[Tensor, "n 3 side side"]) -> Any:
        """Its `latent_dist` has `mean` and `std`, float [n, C, h, w]."""
        ...


class LatentCache:
    """The VAE's posterior of every image, and of its mirror image with `flip`.

    It is kept in half precision: 4 bytes for each value of a latent, which is 64 KB for an image of
    512 px and 12.5 KB at 224 px, and as much again for the mirror image. It lies in an unnamed
    temporary file that is memory-mapped, so that disk and not main memory bounds the data set's
    size. With several workers each encodes its share, and all get all.
    """

    def __init__(
        self,
        vae: Vae,
        images: Images,
        side: int,
        flip: bool,
        rank: int = 0,
        world_size: int = 1,
    ):
        """`side` is the side of the square input in pixels."""
        self.scale = float(vae.config.scaling_factor)
        starts = range(0, len(images), _BLOCK)
        blocks = [range(start, min(start + _BLOCK, len(images))) for start in starts]
        stored: np.ndarray | None = None
        for first in range(0, len(blocks), world_size):
            mine = blocks[first + rank] if first + rank < len(blocks) else range(0)
            encoded = self._encode(vae, images, mine, side, flip)
            if stored is None:
                stored = _file_array((len(images), *encoded.shape[1:]))
            parts = _gather(encoded, vae.device, world_size)
            for block, part in zip(blocks[first : first + world_size], parts, strict=False):
                stored[block.start : block.stop] = part[: len(block)].numpy()
        assert stored is not None
        self._stored = stored

    def sample(
        self,
        index: int,
        flipped: bool,
        noise: Float32[np.ndarray, "channels height width"],
    ) -> Float32[np.ndarray, "channels height width"]:
        """A draw from an image's posterior, made with the given standard normal `noise` and scaled
        for the UNet.
        """
        mean, std = self._stored[index, int(flipped)].astype(np.float32)
        return (mean + std * noise) * self.scale

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        channels, height, width = self._stored.shape[3:]
        return channels, height, width

    @staticmethod
    def _encode(
        vae: Vae, images: Images, rows: range, side: int, flip: bool
    ) -> Float16[Tensor, "block flips 2 channels height width"]:
        """Mean and standard deviation of a block's images, those of their mirror images beside them
        with `flip`. A block beyond `rows` is filled up with black ones.
        """
        pixels = torch.zeros((_BLOCK, 3, side, side))
        for number, row in enumerate(rows):
            pixels[number] = to_tensor(decode(images.image_bytes(row)), side)
        views = [pixels, pixels.flip(-1)] if flip else [pixels]
        with torch.no_grad():
            posteriors = [vae.encode(view.to(vae.device, vae.dtype)).latent_dist for view in views]
        moments = [torch.stack([each.mean, each.std], dim=1) for each in posteriors]
        return torch.stack(moments, dim=1).half().cpu()


def _file_array(shape: tuple[int, ...]) -> np.ndarray:
    """float16 zeros in an unnamed file, which is gone when nothing maps it any more."""
    with tempfile.TemporaryFile(prefix="diffmix-latents-") as file:
        return np.memmap(file, dtype=np.float16, mode="w+", shape=shape)


def _gather(
    encoded: Float16[Tensor, "block flips 2 channels height width"],
    device: torch.device,
    world_size: int,
) -> list[Float16[Tensor, "block flips 2 channels height width"]]:
    """Every rank's block, in rank order, on the CPU."""
    if world_size == 1:
        return [encoded]
    # NCCL moves only what is on the GPU.
    mine = encoded.to(device) if dist.get_backend() == "nccl" else encoded
    parts = [torch.empty_like(mine) for _ in range(world_size)]
    dist.all_gather(parts, mine)
    return [part.cpu() for part in parts]
