"""What the classifier is fed: real images, and with probability p a mix from the pool in a real
image's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from diffmix import images, labels
from diffmix.classifier.cmo import Paste, PasteSampler, paste
from diffmix.config import MixConfig, TrainConfig
from diffmix.datasets.real import RealSet


class Mixes(Protocol):
    """Random access to finished mixes: (image bytes, source label, target label, strength)."""

    def __getitem__(self, index: int) -> tuple[bytes, int, int, float]: ...


class Draw(NamedTuple):
    """One sample that is to be read."""

    synthetic: bool
    row: int
    """Row of the real set, or number of the mix in the pool."""
    seed: int
    """Seed of the sample's own augmentation."""
    paste: Paste | None = None
    """What CMO pastes into the image; None where it pastes nothing."""


class MixedSampler(Sampler[Draw]):
    """The draws of one rank for one epoch after the other (`set_epoch` first).

    An epoch is as many full global batches as cover the real images once, so every rank runs the
    same number of equal steps. Each sample is synthetic with probability `synthetic_p` if the pool
    holds anything when the sample is drawn (paper, section 3.4). Every draw is a function of (seed,
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
        self.pastes = pastes
        self.real_size, self.synthetic_p, self.pool_size = real_size, synthetic_p, pool_size
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.epoch = 0
        self.steps = -(-real_size // batch_size)
        """Steps in an epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.batch_size // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.Generator(
            np.random.Philox(key=self.seed, counter=[0, 0, 2, self.epoch])
        )
        total = self.steps * self.batch_size
        rounds = -(-total // self.real_size)
        order = np.concatenate([generator.permutation(self.real_size) for _ in range(rounds)])[
            :total
        ]
        synthetic = generator.random(total) < self.synthetic_p
        pick = generator.random(total)
        seeds = generator.integers(2**62, size=total)
        pastes = (
            self.pastes.epoch(self.epoch, self.steps, self.batch_size)
            if self.pastes
            else [None] * total
        )
        # Rank r takes every world_size-th place, so that the ranks' batches together are the global
        # batch.
        for place in range(self.rank, total, self.world_size):
            size = self.pool_size() if synthetic[place] else 0
            row = min(int(pick[place] * size), size - 1) if size else int(order[place])
            yield Draw(size > 0, row, int(seeds[place]), pastes[place])


class _Truth(NamedTuple):
    """What a sample's label is made of."""

    source: int
    target: int
    strength: float
    synthetic: bool


class MixedSamples(Dataset):
    """Reads draws: (image float32 [3, S, S], label float32 [num_classes], synthetic bool).

    Labels are made here, so that gamma and smoothing can change without synthesizing again. They
    are smoothed (`train.label_smoothing`), those of mixes only with `train.smooth_mixes`. Where CMO
    pastes, the label is that of both images.
    """

    def __init__(
        self,
        real: RealSet,
        mixes: Mixes,
        transform: Callable[[Image.Image], torch.Tensor],
        mix: MixConfig,
        train: TrainConfig,
    ):
        self.real, self.mixes, self.transform, self.mix, self.train = (
            real,
            mixes,
            transform,
            mix,
            train,
        )

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor, bool]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[Draw]) -> list[tuple[torch.Tensor, torch.Tensor, bool]]:
        """What a DataLoader calls for a batch, whose labels are made in one go: one by one they
        cost 15 % of the images a second.
        """
        read = [self._read(draw) for draw in draws]
        pasted = [self._real(draw.paste.row, draw.paste.seed) for draw in draws if draw.paste]
        made = self._labels([truth for _, truth in read + pasted])
        others = zip(pasted, made[len(read) :], strict=True)
        samples = []
        for draw, (image, _), label in zip(draws, read, made, strict=False):
            if draw.paste:
                (other, _), other_label = next(others)
                image, label = paste(image, label, other, other_label, draw.paste)
            samples.append((image, torch.from_numpy(label), draw.synthetic))
        return samples

    def _read(self, draw: Draw) -> tuple[torch.Tensor, _Truth]:
        if not draw.synthetic:
            return self._real(draw.row, draw.seed)
        data, source, target, strength = self.mixes[draw.row]
        return self._image(data, draw.seed), _Truth(source, target, strength, True)

    def _real(self, row: int, seed: int) -> tuple[torch.Tensor, _Truth]:
        label = int(self.real.labels[row])
        return self._image(self.real.image_bytes(row), seed), _Truth(label, label, 1.0, False)

    def _labels(self, truths: list[_Truth]) -> np.ndarray:
        """float32 [n, num_classes]"""
        source, target, strength, synthetic = (
            np.array(column) for column in zip(*truths, strict=True)
        )
        num_classes, smoothing = len(self.real.class_names), self.train.label_smoothing
        found = labels.smooth(labels.one_hot(source, num_classes), smoothing)
        if synthetic.any():
            soft = labels.soft_label(
                source[synthetic],
                target[synthetic],
                strength[synthetic],
                self.mix.gamma,
                num_classes,
                self.mix.soft_scale,
            )
            found[synthetic] = labels.smooth(soft, smoothing) if self.train.smooth_mixes else soft
        return found

    def _image(self, data: bytes, seed: int) -> torch.Tensor:
        picture = images.decode(data)
        # The generator itself: torch.manual_seed also seeds GPUs and writes down who asked, which
        # takes as long as decoding.
        generator = torch.default_generator
        state = generator.get_state()
        generator.manual_seed(seed)
        try:
            return self.transform(picture)
        finally:
            generator.set_state(state)


class EvalSamples(Dataset):
    """Real images by row: (image float32 [3, S, S], row)."""

    def __init__(
        self,
        real: RealSet,
        transform: Callable[[Image.Image], torch.Tensor],
        rows: np.ndarray | None = None,
    ):
        self.real, self.transform = real, transform
        self.rows = np.arange(len(real)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        row = int(self.rows[place])
        return self.transform(images.decode(self.real.image_bytes(row))), row
