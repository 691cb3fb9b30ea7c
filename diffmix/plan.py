"""The plan: which image becomes which class, how strongly, with which seed. A pure function of
settings and mix id.

Randomness is counter-based (Philox, keyed by the seed, counted by the mix id), so any part of the
plan can be built anywhere, in any order, and always is the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffmix.config import Config, MixConfig
from diffmix.errors import UserError

if TYPE_CHECKING:
    from diffmix.datasets.real import RealSet

BETA_RANGE = (0.1, 0.9)
"""Strengths from a Beta distribution are clipped to this range (the reference's long-tail runs)."""


class MixSpec(NamedTuple):
    """One mix to make."""

    mix_id: int
    """0..n-1"""
    source_id: str
    """`image_id` of the real image that is translated; empty where the strategy starts from noise."""
    source_label: int
    target_label: int
    strength: float
    """In (0, 1]; exactly a float32."""
    seed: int
    """Seed of this mix's own noise, 0..2**62-1."""


class MixPlan:
    """All mixes of a run. `plan[mix_id]` gives a `MixSpec`, `plan.chunk(i)` the specs of a unit of
    work.

    `labels` int [N] and `image_ids` (N strings) describe the real training images; `num_classes`
    counts the classes. Raises `UserError` where a class has no image to start from.
    """

    def __init__(
        self,
        config: MixConfig,
        labels: np.ndarray,
        image_ids: list[str],
        num_classes: int,
        seed: int,
    ):
        self.config = config
        self.labels = np.asarray(labels, dtype=np.int64)
        self.image_ids = image_ids
        self.num_classes = num_classes
        self.seed = seed
        self.kind = config.strategy.split("-")[1]
        self._sizes = np.bincount(self.labels, minlength=num_classes)
        if self.kind != "gen" and not self._sizes.all():
            raise UserError(
                f"Class number {int(np.argmin(self._sizes))} has no training image, so nothing can be mixed from it."
            )
        self._by_class = np.argsort(self.labels, kind="stable")
        self._class_start = np.concatenate([[0], np.cumsum(self._sizes)])

    def __len__(self) -> int:
        return self.config.count or round(self.config.multiplier * len(self.labels))

    def __getitem__(self, mix_id: int) -> MixSpec:
        if not 0 <= mix_id < len(self):
            raise IndexError(f"mix {mix_id} of a plan of {len(self)}")
        return self._specs(np.array([mix_id]))[0]

    @property
    def num_chunks(self) -> int:
        return len(self._chunks)

    def chunk_ids(self, index: int) -> np.ndarray:
        """The mix ids (int64, at most `config.batch`) of chunk `index`; all run the same number of
        denoising steps.
        """
        return self._chunks[index]

    def chunk(self, index: int) -> list[MixSpec]:
        """The specs of chunk `index`."""
        return self._specs(self._chunks[index])

    @cached_property
    def settings(self) -> dict:
        """What the images depend on, as plain JSON values. Options that only change labels or
        sampling are left out.
        """
        training_only = (
            "gamma",
            "soft_scale",
            "synthetic_p",
            "sampler_lora",
        )  # the store keeps the LoRA's content, not its place
        config = {
            key: value
            for key, value in dataclasses.asdict(self.config).items()
            if key not in training_only
        }
        ids = hashlib.sha256(
            json.dumps([self.image_ids, self.labels.tolist()]).encode()
        ).hexdigest()
        plan = {
            **config,
            "seed": self.seed,
            "num_classes": self.num_classes,
            "images": ids,
            "planned": len(self),
        }
        return json.loads(json.dumps(plan))

    def columns(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """The specs of `ids` (int64 [n]) column by column; `source` is the row of the real image,
        or -1 for none.
        """
        uniform = self._uniform(ids)
        if self.config.source_sampling == "image":
            source = np.minimum(
                (uniform[:, 1] * len(self.labels)).astype(np.int64), len(self.labels) - 1
            )
            source_label = self.labels[source]
        else:
            source_label = np.minimum(
                (uniform[:, 0] * self.num_classes).astype(np.int64), self.num_classes - 1
            )
            size = self._sizes[source_label]
            offset = np.minimum((uniform[:, 1] * size).astype(np.int64), np.maximum(size - 1, 0))
            source = self._by_class[
                np.minimum(self._class_start[source_label] + offset, len(self.labels) - 1)
            ]
        target = self._targets(uniform[:, 2], source_label)
        if self.kind == "aug":
            target = source_label
        strength = self._strengths(uniform[:, 3], ids)
        if self.kind == "gen":
            source, source_label, strength = (
                np.full(len(ids), -1),
                target,
                np.ones(len(ids), dtype=np.float32),
            )
        seed = (uniform[:, 4] * 2**31).astype(np.int64) * 2**31 + (uniform[:, 5] * 2**31).astype(
            np.int64
        )
        return {
            "mix_id": ids,
            "source": source,
            "source_label": source_label,
            "target_label": target,
            "strength": strength,
            "seed": seed,
        }

    def _specs(self, ids: np.ndarray) -> list[MixSpec]:
        columns = self.columns(ids)
        names = [self.image_ids[i] if i >= 0 else "" for i in columns["source"]]
        rows = zip(
            ids.tolist(),
            names,
            columns["source_label"].tolist(),
            columns["target_label"].tolist(),
            columns["strength"].tolist(),
            columns["seed"].tolist(),
            strict=True,
        )
        return [MixSpec(*row) for row in rows]

    def _uniform(self, ids: np.ndarray) -> np.ndarray:
        """Eight float64 in [0, 1) for each id: two blocks of Philox at the counter 2 * id."""
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) == 0:
            return np.empty((0, 8))
        first, last = int(ids.min()), int(ids.max())
        if last - first < 4 * len(ids):  # one dense range is one call
            raw = (
                np.random.Philox(key=self.seed, counter=2 * first)
                .random_raw(8 * (last - first + 1))
                .reshape(-1, 8)[ids - first]
            )
        else:
            raw = np.stack(
                [np.random.Philox(key=self.seed, counter=2 * int(i)).random_raw(8) for i in ids]
            )
        return (raw >> np.uint64(11)) * 2.0**-53

    def _targets(self, uniform: np.ndarray, source_label: np.ndarray) -> np.ndarray:
        weights = (
            1.0 / (self._sizes + 1.0)
            if self.config.target_sampling == "inverse"
            else np.ones(self.num_classes)
        )
        table = np.broadcast_to(weights, (self.num_classes, self.num_classes))
        if (
            self.config.referred_classes is not None
            and self.config.referred_classes < self.num_classes
        ):
            table = table * self._referred
        cumulative = np.cumsum(table, axis=1)
        draw = uniform * cumulative[source_label, -1]
        # The first class whose cumulated weight lies above the draw; rows differ by source, so
        # search row by row.
        target = np.empty(len(uniform), dtype=np.int64)
        for label in np.unique(source_label):
            rows = source_label == label
            target[rows] = np.searchsorted(cumulative[label], draw[rows], side="right")
        return np.minimum(target, self.num_classes - 1)

    @cached_property
    def _referred(self) -> np.ndarray:
        """bool [C, C]: the target classes that each source class may become, drawn once from the
        seed.
        """
        allowed = np.zeros((self.num_classes, self.num_classes), dtype=bool)
        for label in range(self.num_classes):
            generator = np.random.Generator(
                np.random.Philox(key=self.seed, counter=[0, 0, 1, label])
            )
            allowed[
                label,
                generator.choice(self.num_classes, self.config.referred_classes, replace=False),
            ] = True
        return allowed

    def _strengths(self, uniform: np.ndarray, ids: np.ndarray) -> np.ndarray:
        if self.config.strength_beta is not None:
            from scipy.stats import beta

            return np.clip(beta.ppf(uniform, *self.config.strength_beta), *BETA_RANGE).astype(
                np.float32
            )
        values = np.asarray(self.config.strength, dtype=np.float32)
        return values[np.minimum((uniform * len(values)).astype(np.int64), len(values) - 1)]

    @cached_property
    def _chunks(self) -> list[np.ndarray]:
        ids = np.arange(len(self), dtype=np.int64)
        strength = (
            np.ones(len(ids))
            if self.kind == "gen"
            else self._strengths(self._uniform(ids)[:, 3], ids)
        )
        steps = denoising_steps(strength, self.config.num_inference_steps)
        batch = self.config.batch
        if not isinstance(batch, int):
            raise ValueError(
                "mix.batch is auto; it has to be a number before a plan is cut into chunks"
            )
        chunks = []
        for count in np.unique(steps):
            same = ids[steps == count]
            chunks += [same[i : i + batch] for i in range(0, len(same), batch)]
        # By first id, so that strengths arrive interleaved and not one after the other.
        return sorted(chunks, key=lambda chunk: chunk[0])


def denoising_steps(strength: np.ndarray | float, num_inference_steps: int) -> np.ndarray:
    """How many steps of the schedule image-to-image runs: `min(int(steps * strength), steps)`, as
    diffusers counts them.
    """
    # float32 strengths such as 0.7 are a hair off; rounding to six digits gives the step count of
    # the number that was meant.
    exact = np.round(np.asarray(strength, dtype=np.float64), 6)
    return np.minimum((num_inference_steps * exact).astype(np.int64), num_inference_steps)


def make_plan(config: Config, real: RealSet) -> MixPlan:
    """The plan of a run: its `mix` options over its training images. Raises as `MixPlan`."""
    return MixPlan(config.mix, real.labels, real.image_ids, len(real.class_names), config.run.seed)
