"""The training images as the diffusion model sees them: encoded once, before the first step."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Protocol

import numpy as np

from diffmix.generator.base_model import to_tensor
from diffmix.images import decode

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL

# images in one call of the VAE; fixed, so that rounding does not depend on the number of workers
_BLOCK = 8


class Images(Protocol):
    """Image files by number, such as a `RealSet`."""

    def __len__(self) -> int: ...

    def image_bytes(self, index: int) -> bytes: ...


class LatentCache:
    """The VAE's posterior of every image, and of its mirror image where `flip`.

    Kept in half precision, 4 bytes for each of a latent's values (64 KB for an image of 512 px,
    12.5 KB at 224 px; as much again for the mirror image), in an unnamed temporary file that is
    memory-mapped: the system may drop its pages, so the data set's size is bounded by disk and not
    by main memory. With several workers each encodes its share and all get all.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        images: Images,
        side: int,
        flip: bool,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.scale = float(vae.config.scaling_factor)
        blocks = [
            range(start, min(start + _BLOCK, len(images)))
            for start in range(0, len(images), _BLOCK)
        ]
        stored: np.ndarray | None = None
        for first in range(0, len(blocks), world_size):
            mine = blocks[first + rank] if first + rank < len(blocks) else range(0)
            encoded = self._encode(vae, images, mine, side, flip)
            if stored is None:
                with tempfile.TemporaryFile(
                    prefix="diffmix-latents-"
                ) as file:  # gone with the last map of it
                    stored = np.memmap(
                        file, dtype=np.float16, mode="w+", shape=(len(images), *encoded.shape[1:])
                    )
            parts = _gather(encoded, vae.device, world_size)
            for block, part in zip(blocks[first : first + world_size], parts, strict=False):
                stored[block.start : block.stop] = part[: len(block)].numpy()
        assert stored is not None
        self._stored = stored

    def sample(self, index: int, flipped: bool, noise: np.ndarray) -> np.ndarray:
        """float32 [C, h, w]: a draw from an image's posterior with the given standard normal
        `noise`, scaled for the UNet.
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
        vae: AutoencoderKL, images: Images, rows: range, side: int, flip: bool
    ) -> torch.Tensor:
        """float16 [_BLOCK, flips, 2, C, h, w]: mean and standard deviation; zeros beyond `rows`."""
        import torch

        pixels = torch.zeros((_BLOCK, 3, side, side))
        for place, row in enumerate(rows):
            pixels[place] = to_tensor(decode(images.image_bytes(row)), side)
        views = [pixels, pixels.flip(-1)] if flip else [pixels]
        with torch.no_grad():
            posteriors = [vae.encode(view.to(vae.device, vae.dtype)).latent_dist for view in views]
        return (
            torch.stack([torch.stack([p.mean, p.std], dim=1) for p in posteriors], dim=1)
            .half()
            .cpu()
        )


def _gather(encoded: torch.Tensor, device: torch.device, world_size: int) -> list[torch.Tensor]:
    """Every rank's block, in rank order, on the CPU."""
    if world_size == 1:
        return [encoded]
    import torch
    import torch.distributed as dist

    # NCCL moves only what is on the GPU.
    mine = encoded.to(device) if dist.get_backend() == "nccl" else encoded
    parts = [torch.empty_like(mine) for _ in range(world_size)]
    dist.all_gather(parts, mine)
    return [part.cpu() for part in parts]
