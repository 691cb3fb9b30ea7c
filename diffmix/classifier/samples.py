"""What the classifier is trained on: real images, some of them replaced by mixes from the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from diffmix import images, labels
from diffmix.classifier.cmo import Paste, PasteSampler, paste
from diffmix.config import MixConfig, TrainConfig
from diffmix.datasets.real import RealSet

Sample = tuple[Float32[Tensor, "3 side side"], Float32[Tensor, " classes"], bool]
"""Image, label, and whether the image is a mix."""


@runtime_checkable
class Mixes(Protocol):
    """Random access to finished mixes."""

    def __getitem__(self, index: int, /) -> tuple[bytes, int, int, float]:
        """The image file, the source label, the target label and the strength of a mix."""


class Draw(NamedTuple):
    """One sample to be read."""

    synthetic: bool
    row: int
    """Row of the real set, or number of the mix in the pool."""
    seed: int
    """Seed of the sample's own augmentation."""
    paste: Paste | None = None
    """What CMO pastes into the image; None for nothing."""


class MixedSampler(Sampler[Draw]):
    """The draws of one rank, epoch by epoch. Call `set_epoch` before each epoch.

    An epoch is as many full global batches as cover the real images once, so every rank runs the
    same number of equal steps. A sample is a mix with probability `synthetic_p` (paper, section
    3.4), if the pool holds any mix when the sample is drawn. Every draw is a function of (seed,
    epoch, place in the epoch) and of the pool's size.
    """

    def __init__(
        self,
        real_size: int,
        synthetic_p: float,
        pool_size: Callable[[], int],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        pastes: PasteSampler | None = None,
    ):
        """`batch_size` is the global batch's; `pool_size` gives the current number of mixes."""
        self.real_size, self.synthetic_p, self.pool_size = real_size, synthetic_p, pool_size
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.pastes = pastes
        self.epoch = 0
        self.steps = -(-real_size // batch_size)
        """Steps in an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.Generator(
            np.random.Philox(key=self.seed, counter=[0, 0, 2, self.epoch])
        )
        total = self.steps * self.batch_size
        rounds = -(-total // self.real_size)
        order = np.concatenate([generator.permutation(self.real_size) for _ in range(rounds)])
        synthetic = generator.random(total) < self.synthetic_p
        pick = generator.random(total)
        seeds = generator.integers(2**62, size=total)
        pastes: list[Paste | None] = [None] * total
        if self.pastes:
            pastes = self.pastes.epoch(self.epoch, self.steps, self.batch_size)
        # Rank r takes every world_size-th place, so that the batches of all ranks together are the
        # global batch.
        for place in range(self.rank, total, self.world_size):
            size = self.pool_size() if synthetic[place] else 0
            row = min(int(pick[place] * size), size - 1) if size else int(order[place])
            yield Draw(size > 0, row, int(seeds[place]), pastes[place])


class _Truth(NamedTuple):
    """What the label of a sample is made of."""

    source: int
    target: int
    strength: float
    synthetic: bool


class MixedSamples(Dataset):
    """Reads draws: image (float32 [3, S, S]), label (float32 [classes]), whether it is a mix.

    Labels are made here, so that gamma and smoothing can change without making mixes again.
    `train.label_smoothing` smooths the labels of real images, and with `train.smooth_mixes` those
    of mixes too. Where CMO pastes, the label is a weighted mean of both images' labels.
    """

    def __init__(
        self,
        real: RealSet,
        mixes: Mixes,
        transform: Callable[[Image.Image], Tensor],
        mix_config: MixConfig,
        train_config: TrainConfig,
    ):
        self.real, self.mixes, self.transform = real, mixes, transform
        self.mix_config, self.train_config = mix_config, train_config

    def __getitem__(self, draw: Draw) -> Sample:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[Draw]) -> list[Sample]:
        """The samples of a batch. A DataLoader calls this once per batch.

        The labels of a batch are made together: one by one they cost 15 % of the images per second.
        """
        read = [self._read(draw) for draw in draws]
        pasted = [self._real(draw.paste.row, draw.paste.seed) for draw in draws if draw.paste]
        found = self._labels([truth for _, truth in read + pasted])
        others = zip(pasted, found[len(read) :], strict=True)
        samples = []
        for draw, (image, _), label in zip(draws, read, found, strict=False):
            if draw.paste:
                (other, _), other_label = next(others)
                image, label = paste(image, label, other, other_label, draw.paste)
            samples.append((image, torch.from_numpy(label), draw.synthetic))
        return samples

    def _read(self, draw: Draw) -> tuple[Float32[Tensor, "3 side side"], _Truth]:
        if not draw.synthetic:
            return self._real(draw.row, draw.seed)
        data, source, target, strength = self.mixes[draw.row]
        return self._image(data, draw.seed), _Truth(source, target, strength, True)

    def _real(self, row: int, seed: int) -> tuple[Float32[Tensor, "3 side side"], _Truth]:
        label = int(self.real.labels[row])
        return self._image(self.real.image_bytes(row), seed), _Truth(label, label, 1.0, False)

    def _labels(self, truths: list[_Truth]) -> Float32[np.ndarray, "samples classes"]:
        columns = [np.array(column) for column in zip(*truths, strict=True)]
        source, target, strength, synthetic = columns
        num_classes, smoothing = len(self.real.class_names), self.train_config.label_smoothing
        found = labels.smooth(labels.one_hot(source, num_classes), smoothing)
        if synthetic.any():
            soft = labels.soft_label(
                source[synthetic],
                target[synthetic],
                strength[synthetic],
                self.mix_config.gamma,
                num_classes,
                self.mix_config.soft_scale,
            )
            smooth_mixes = self.train_config.smooth_mixes
            found[synthetic] = labels.smooth(soft, smoothing) if smooth_mixes else soft
        return found

    def _image(self, data: bytes, seed: int) -> Float32[Tensor, "3 side side"]:
        image = images.decode(data)
        # The generator itself: torch.manual_seed also seeds GPUs and records its caller, which
        # takes as long as decoding.
        generator = torch.default_generator
        state = generator.get_state()
        generator.manual_seed(seed)
        try:
            return self.transform(image)
        finally:
            generator.set_state(state)


class EvalSamples(Dataset):
    """Real images by row: image (float32 [3, S, S]) and row. Without `rows`, all of the set."""

    def __init__(
        self,
        real: RealSet,
        transform: Callable[[Image.Image], Tensor],
        rows: Int[np.ndarray, " images"] | None = None,
    ):
        self.real, self.transform = real, transform
        self.rows = np.arange(len(real)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Float32[Tensor, "3 side side"], int]:
        row = int(self.rows[place])
        return self.transform(images.decode(self.real.image_bytes(row))), row
