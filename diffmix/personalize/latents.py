"""The training images as the diffusion model sees them: encoded once before the first step, or when
a step draws them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Float16, Float32
from torch import Tensor

from diffmix.generator.device.transfer import sent
from diffmix.personalize.crops import Images, View, cached_places, pixels_of

BLOCK = 8
"""Images in one call of the VAE. The number is fixed, so that rounding does not depend on the
number of workers.
"""


@runtime_checkable
class Vae(Protocol):
    """What is needed of diffusers' `AutoencoderKL`."""

    config: Any
    device: torch.device
    dtype: torch.dtype

    def encode(self, pixels: Float[Tensor, "n 3 side side"]) -> Any:
        """Its `latent_dist` has `mean` and `std`, float [n, C, h, w]."""
        ...


class Latents(Protocol):
    """The posteriors of a set of images."""

    cropped: bool
    """Whether the place of a view matters."""
    scale: float
    """What a latent is multiplied by for the UNet."""

    def __len__(self) -> int: ...

    def posteriors(
        self, slots: range, step: int, views: Callable[[int], Sequence[View]]
    ) -> Float32[Tensor, "n 2 channels height width"]:
        """Mean and standard deviation of the views that the samples `slots` of `step` see, on the
        CPU or on the VAE's device. `views(step)` gives those of any step.
        """
        ...


class LatentCache:
    """The VAE's posterior of every image, and of its mirror image with `flip`.

    It is kept in half precision: 4 bytes for each value of a latent, which is 64 KB for an image of
    512 px and 12.5 KB at 224 px, as much again for the mirror image, and all that for each of
    `crops`. It lies in an unnamed temporary file that is memory-mapped, so that disk and not main
    memory bounds the data set's size. With several workers each encodes its share, and all get all.
    """

    def __init__(
        self,
        vae: Vae,
        images: Images,
        side: int,
        flip: bool,
        rank: int = 0,
        world_size: int = 1,
        crops: int = 0,
        seed: int = 0,
    ):
        """`side` is the side of the square input in pixels. `crops` 0: each image is squashed to
        it, or is square. `seed` places the crops.
        """
        self.scale = float(vae.config.scaling_factor)
        self.cropped = crops > 0
        self._crops = max(1, crops)
        starts = range(0, len(images), BLOCK)
        blocks = [range(start, min(start + BLOCK, len(images))) for start in starts]
        stored: np.ndarray | None = None
        for first in range(0, len(blocks), world_size):
            mine = blocks[first + rank] if first + rank < len(blocks) else range(0)
            encoded = self._encode(vae, images, mine, side, flip, seed)
            if stored is None:
                stored = _file_array((len(images), *encoded.shape[1:]))
            parts = _gather(encoded, vae.device, world_size)
            for block, part in zip(blocks[first : first + world_size], parts, strict=False):
                stored[block.start : block.stop] = part[: len(block)].numpy()
        assert stored is not None
        self._stored = stored

    def posteriors(
        self, slots: range, step: int, views: Callable[[int], Sequence[View]]
    ) -> Float32[Tensor, "n 2 channels height width"]:
        found = [
            self._stored[view.image, int(view.place * self._crops), int(view.flipped)]
            for view in views(step)
        ]
        return torch.from_numpy(np.stack(found).astype(np.float32))

    def __len__(self) -> int:
        return len(self._stored)

    def _encode(
        self, vae: Vae, images: Images, rows: range, side: int, flip: bool, seed: int
    ) -> Float16[Tensor, "block crops flips 2 channels height width"]:
        """Mean and standard deviation of the crops of a block's images, those of their mirror
        images beside them with `flip`. A block beyond `rows` is filled up with black ones.
        """
        moments = []
        for number in range(self._crops):
            pixels = torch.zeros((BLOCK, 3, side, side))
            for place, row in enumerate(rows):
                at = cached_places(row, self._crops, seed)[number] if self.cropped else 0.0
                pixels[place] = pixels_of(images, View(row, False, at), side, self.cropped)
            both = [pixels, pixels.flip(-1)] if flip else [pixels]
            moments.append(torch.stack([_moments(vae, each) for each in both], dim=1))
        return torch.stack(moments, dim=1).half().cpu()


class FreshLatents:
    """Encodes each view when a step draws it, together with those of the steps around it: at least
    `BLOCK` views at once. Threads decode the images of the next views meanwhile. The latents stay
    on the VAE's device, so that no step waits for them. Owned by one process.

    Which steps are encoded together depends on their numbers alone, so that a resumed run sees the
    same bits.
    """

    cropped = True

    def __init__(self, vae: Vae, images: Images, side: int):
        """`side` is the side of the square input in pixels."""
        self.scale = float(vae.config.scaling_factor)
        self._vae, self._images, self._side = vae, images, side
        self._threads = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) - 1)), "decode")
        # By slots: the number of a block of steps, and what is known of its views.
        self._decoded: dict[range, tuple[int, list[Future]]] = {}
        self._encoded: dict[range, tuple[int, Tensor]] = {}

    def posteriors(
        self, slots: range, step: int, views: Callable[[int], Sequence[View]]
    ) -> Float32[Tensor, "n 2 channels height width"]:
        steps = -(-BLOCK // len(slots))  # of a block
        number, within = divmod(step, steps)

        def decode(block: int) -> list[Future]:
            wanted = [view for step in range(steps) for view in views(block * steps + step)]
            return [
                self._threads.submit(pixels_of, self._images, view, self._side, cropped=True)
                for view in wanted
            ]

        if self._encoded.get(slots, (-1,))[0] != number:
            ahead, pixels = self._decoded.get(slots, (-1, []))
            if ahead != number:
                pixels = decode(number)
            self._decoded[slots] = (number + 1, decode(number + 1))
            self._encoded[slots] = (number, self._encode([each.result() for each in pixels]))
        posteriors = self._encoded[slots][1]
        return posteriors[within * len(slots) : (within + 1) * len(slots)]

    def __len__(self) -> int:
        return len(self._images)

    def _encode(self, pixels: list[Tensor]) -> Float32[Tensor, "n 2 channels height width"]:
        parts = [_moments(self._vae, part) for part in torch.stack(pixels).split(BLOCK)]
        return torch.cat(parts).float()


@torch.no_grad()
def _moments(
    vae: Vae, pixels: Float32[Tensor, "n 3 side side"]
) -> Float[Tensor, "n 2 channels height width"]:
    """Mean and standard deviation of the images' latents."""
    posterior = vae.encode(sent(pixels, vae.device).to(vae.dtype)).latent_dist
    return torch.stack([posterior.mean, posterior.std], dim=1)


def _file_array(shape: tuple[int, ...]) -> np.ndarray:
    """float16 zeros in an unnamed file, which is gone when nothing maps it any more."""
    with tempfile.TemporaryFile(prefix="diffmix-latents-") as file:
        return np.memmap(file, dtype=np.float16, mode="w+", shape=shape)


def _gather(
    encoded: Float16[Tensor, "block crops flips 2 channels height width"],
    device: torch.device,
    world_size: int,
) -> list[Float16[Tensor, "block crops flips 2 channels height width"]]:
    """Every rank's block, in rank order, on the CPU."""
    if world_size == 1:
        return [encoded]
    # NCCL moves only what is on the GPU.
    mine = encoded.to(device) if dist.get_backend() == "nccl" else encoded
    parts = [torch.empty_like(mine) for _ in range(world_size)]
    dist.all_gather(parts, mine)
    return [part.cpu() for part in parts]
