"""What the classifier is trained on: real images, some of them replaced by mixes from the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int, Num
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from diffmix import images, labels
from diffmix.classifier.cmo import Paste, Pastes, paste
from diffmix.config import MixConfig, TrainConfig
from diffmix.datasets.real import RealSet

Sample = tuple[Num[Tensor, "3 side side"], Float32[Tensor, " classes"], bool]
"""Image (as the transform makes it), label, and whether the image is a mix."""


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
    """What CMO or CutMix pastes into the image; None for nothing."""


class MixedSampler(Sampler[Draw]):
    """The draws of one rank, epoch by epoch. Call `set_epoch` before each epoch.

    An epoch is as many full global batches as cover the real images once, so every rank runs the
    same number of equal steps; `samples` may give it another length (`schedule.Schedule`). A sample
    is a mix with probability `synthetic_p` (paper, section 3.4), if the pool holds any mix when the
    sample is drawn. Every draw is a function of (seed, epoch, place in the epoch) and of the pool.
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
        pastes: Pastes | None = None,
        *,
        samples: int | None = None,
        pick: Callable[[float, float], int] | None = None,
    ):
        """`batch_size` is the global batch's; `pool_size` gives the current number of mixes.

        `samples` is the length of an epoch over all ranks, a multiple of their number. `pick`
        chooses a mix by two numbers that are uniform in [0, 1) (`target_draw.TargetDraw`); None
        chooses uniformly.
        """
        self.real_size, self.synthetic_p, self.pool_size = real_size, synthetic_p, pool_size
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.pastes, self.pick = pastes, pick
        self.epoch = 0
        self.samples = samples or batch_size * -(-real_size // batch_size)
        """Samples in an epoch, over all ranks."""
        self.steps = -(-self.samples // batch_size)
        """Steps in an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        generator = np.random.Generator(
            np.random.Philox(key=self.seed, counter=[0, 0, 2, self.epoch])
        )
        total = self.samples
        rounds = -(-total // self.real_size)
        order = np.concatenate([generator.permutation(self.real_size) for _ in range(rounds)])
        synthetic = generator.random(total) < self.synthetic_p
        pick = generator.random(total)
        seeds = generator.integers(2**62, size=total)
        pastes: list[Paste | None] = [None] * total
        if self.pastes:
            pastes = self.pastes.epoch(self.epoch, self.steps, self.batch_size)
        # What only some options need is drawn last, and leaves the rest as it is.
        again = generator.random(total)
        cut_synthetic = generator.random(total) < self.synthetic_p
        cut_pick, cut_again = generator.random((2, total))
        # Rank r takes every world_size-th place, so that the batches of all ranks together are the
        # global batch.
        for place in range(self.rank, total, self.world_size):
            mix = self._mix(pick[place], again[place]) if synthetic[place] else None
            row = int(order[place]) if mix is None else mix
            how = pastes[place]
            if how and self.pastes and self.pastes.mixes and cut_synthetic[place]:
                cut = self._mix(cut_pick[place], cut_again[place])
                how = how if cut is None else replace(how, row=cut, synthetic=True)
            yield Draw(mix is not None, row, int(seeds[place]), how)

    def _mix(self, share: float, other: float) -> int | None:
        """The number of a mix in the pool; None while that is empty."""
        size = self.pool_size()
        if not size:
            return None
        return min(int(share * size), size - 1) if self.pick is None else self.pick(share, other)


class _Truth(NamedTuple):
    """What the label of a sample is made of."""

    source: int
    target: int
    strength: float
    synthetic: bool


class MixedSamples(Dataset):
    """Reads draws: image (as `transform` makes it), label (float32 [classes]), whether it is a mix.

    Labels are made here, so that gamma and smoothing can change without making mixes again.
    `train.label_smoothing` smooths the labels of real images, and with `train.smooth_mixes` those
    of mixes too. Where a box is pasted, the label is a weighted mean of both images' labels.
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
        pastes = [draw.paste for draw in draws if draw.paste]
        pasted = [self._read(Draw(how.synthetic, how.row, how.seed)) for how in pastes]
        found = self._labels([truth for _, truth in read + pasted])
        others = zip(pasted, found[len(read) :], strict=True)
        samples = []
        for draw, (image, _), label in zip(draws, read, found, strict=False):
            if draw.paste:
                (other, _), other_label = next(others)
                image, label = paste(image, label, other, other_label, draw.paste)
            samples.append((image, torch.from_numpy(label), draw.synthetic))
        return samples

    def _read(self, draw: Draw) -> tuple[Num[Tensor, "3 side side"], _Truth]:
        if not draw.synthetic:
            return self._real(draw.row, draw.seed)
        data, source, target, strength = self.mixes[draw.row]
        return self._image(data, draw.seed), _Truth(source, target, strength, True)

    def _real(self, row: int, seed: int) -> tuple[Num[Tensor, "3 side side"], _Truth]:
        label = int(self.real.labels[row])
        return self._image(self.real.image_bytes(row), seed), _Truth(label, label, 1.0, False)

    def _labels(self, truths: list[_Truth]) -> Float32[np.ndarray, "samples classes"]:
        columns = [np.array(column) for column in zip(*truths, strict=True)]
        source, target, strength, synthetic = columns
        num_classes, train = len(self.real.class_names), self.train_config
        smoothing, form = train.label_smoothing, train.smoothing_form
        found = labels.smooth(labels.one_hot(source, num_classes), smoothing, form)
        if synthetic.any():
            soft = labels.soft_label(
                source[synthetic],
                target[synthetic],
                strength[synthetic],
                self.mix_config.gamma,
                num_classes,
                self.mix_config.soft_scale,
            )
            if train.smooth_mixes:
                soft = labels.smooth(soft, smoothing, form)
            found[synthetic] = soft
        return found

    def _image(self, data: bytes, seed: int) -> Num[Tensor, "3 side side"]:
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
    """Real images by row: image (as `transform` makes it), row. Without `rows` all of the set."""

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

    def __getitem__(self, place: int) -> tuple[Num[Tensor, "3 side side"], int]:
        row = int(self.rows[place])
        return self.transform(images.decode(self.real.image_bytes(row))), row
