"""Prior preservation (DreamBooth, Ruiz et al. 2023, arXiv 2208.12242, section 3.2).

The base model makes images of the superclass once. Training on them beside the real images keeps
the model from showing the few real objects wherever the superclass is named.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from diffmix.config import MixConfig, ModelConfig
from diffmix.generator.base_model import base_fingerprint
from diffmix.generator.concept import prompt

if TYPE_CHECKING:
    from diffmix.storage import Folder

PRIOR_PROMPT = "a photo of a {superclass}"
# Images in one call. The number is fixed and the last call is whole, so that an image does not
# depend on how many are made.
_CHUNK = 8
_STREAM = 0x7072696F72  # keeps these seeds apart from the mix plan's under the same seed


class PriorImages:
    """The first `count` prior images of a folder, as PNG files. `prior_images` makes it."""

    def __init__(self, folder: Folder, count: int):
        self.folder = folder
        self.count = count

    def __len__(self) -> int:
        return self.count

    def image_bytes(self, index: int) -> bytes:
        return self.folder.read(_name(index))


def prior_images(
    model: ModelConfig,
    superclass: str,
    count: int,
    seed: int,
    folder: Folder,
    rank: int = 0,
    world_size: int = 1,
) -> PriorImages:
    """The first `count` prior images of this base, superclass and seed. Those that `folder` lacks
    are made and kept there.

    Image i depends only on base, resolution, superclass, seed and i; other settings have another
    subfolder of `folder`. Each rank makes its share; when the call returns, all are there.
    """
    identity = [base_fingerprint(model), model.resolution, superclass, seed]
    own = folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    stored = set(own.names())
    mine = [range(first, first + _CHUNK) for first in range(0, count, _CHUNK)][rank::world_size]
    missing = [chunk for chunk in mine if any(_name(index) not in stored for index in chunk)]
    if missing:
        _make(model, superclass, seed, own, missing)
    if world_size > 1:
        import torch.distributed as dist

        dist.barrier()
    return PriorImages(own, count)


def _make(
    model: ModelConfig, superclass: str, seed: int, folder: Folder, chunks: list[range]
) -> None:
    from diffmix.generator.mixer import Mixer
    from diffmix.plan import MixSpec

    mix = MixConfig(strategy="real-gen", batch=_CHUNK)
    mixer = Mixer(
        replace(model, compile=False), mix, [superclass], superclass, template=PRIOR_PROMPT
    )
    for chunk in chunks:
        specs = [
            MixSpec(
                mix_id=index,
                source_id="",
                source_label=0,
                target_label=0,
                strength=1.0,
                seed=_seed(seed, index),
            )
            for index in chunk
        ]
        for index, image in zip(chunk, mixer.mix(specs, [None] * _CHUNK), strict=True):
            file = io.BytesIO()
            image.save(file, "PNG")
            folder.write(_name(index), file.getvalue())


def prior_prompt(superclass: str) -> str:
    """The prompt that makes the prior images, and that they are trained with."""
    return prompt(PRIOR_PROMPT, None, superclass, superclass)


def _seed(seed: int, index: int) -> int:
    return int(np.random.Philox(key=[seed, _STREAM], counter=[index, 0, 0, 0]).random_raw() >> 1)


def _name(index: int) -> str:
    return f"{index:06d}.png"
