"""The plan: which image becomes which class, how strongly, with which seed. A pure function of
settings and mix id.

Randomness is counter-based (Philox, keyed by the seed, counted by the mix id). Any part of the plan
can therefore be built anywhere, in any order, and is always the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32, Int

from diffmix import strategies
from diffmix.chunks import BLOCK, Chunks, StepsOf, cut
from diffmix.config import Config, MixConfig
from diffmix.errors import UserError
from diffmix.strategies.mix_spec import SPEC_COLUMNS, MixSpec
from diffmix.strategies.pair_weights import PAIR_WEIGHTS, PairWeights

if TYPE_CHECKING:
    from diffmix.datasets.real import RealSet
    from diffmix.files.set_index import SetIndex

BETA_RANGE = (0.1, 0.9)
"""Strengths from a Beta distribution are clipped to this range (the reference's long-tail runs)."""
_NOT_OF_IMAGES = ("gamma", "soft_scale", "synthetic_p", "target_weighting", "sampler_lora")
"""`mix` options outside a plan's identity: the first four only change labels and sampling, and the
store keeps the LoRA's content instead of its place.
"""


@runtime_checkable
class Planned(Protocol):
    """What can be counted: a `MixPlan`, or what a composed store says in its place."""

    def __len__(self) -> int: ...

    def columns(self, ids: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]: ...


class MixPlan:
    """All mixes of a run. `plan[mix_id]` is a `MixSpec`, `plan.chunk(i)` the specs of one unit of
    work.

    `labels` and `image_ids` describe the real training images; `num_classes` counts the classes.
    `weights` says how likely each target is for each source; None: as `mix.target_sampling` names
    it. `sizes` are the plan's earlier sizes, where it was extended: see `chunks.cut`. Raises
    `UserError` for an unknown strategy and where a class has no image to start from.
    """

    def __init__(
        self,
        config: MixConfig,
        labels: Int[np.ndarray, " images"],
        image_ids: list[str] | pa.ChunkedArray,
        num_classes: int,
        seed: int,
        weights: PairWeights | None = None,
        sizes: Sequence[int] = (),
    ):
        self.config = config
        self.strategy = strategies.find(config.strategy)
        self.weights = weights or PAIR_WEIGHTS[config.target_sampling]
        self.labels = np.asarray(labels, dtype=np.int64)
        self.image_ids = (
            pa.chunked_array([pa.array(image_ids, pa.string())])
            if isinstance(image_ids, list)
            else image_ids
        )
        self.sizes = tuple(sizes)
        self.num_classes = num_classes
        self.seed = seed
        self._sizes = np.bincount(self.labels, minlength=num_classes)
        if not self.from_noise and not self._sizes.all():
            raise UserError(
                f"Class number {int(np.argmin(self._sizes))} has no training image, so nothing can "
                "be mixed from it; add images or remove the class."
            )
        self._by_class = np.argsort(self.labels, kind="stable")
        self._class_start = np.concatenate([[0], np.cumsum(self._sizes)])

    @property
    def from_noise(self) -> bool:
        """Whether mixes have no source image."""
        return self.strategy.from_noise

    def __len__(self) -> int:
        return self.config.count or round(self.config.multiplier * len(self.labels))

    def __getitem__(self, mix_id: int) -> MixSpec:
        if not 0 <= mix_id < len(self):
            raise IndexError(f"mix {mix_id} of a plan of {len(self)}")
        return self.specs(np.array([mix_id]))[0]

    @property
    def num_chunks(self) -> int:
        return len(self._chunks)

    @property
    def chunk_lengths(self) -> Int[np.ndarray, " chunks"]:
        """The number of mixes in each chunk."""
        return self._chunks.lengths

    def chunk_ids(self, index: int) -> Int[np.ndarray, " n"]:
        """The mix ids of chunk `index`, at most `config.batch`. All run the same number of
        denoising steps.
        """
        return self._chunks[index]

    def chunk(self, index: int) -> list[MixSpec]:
        """The specs of chunk `index`."""
        return self.specs(self._chunks[index])

    @cached_property
    def settings(self) -> dict:
        """The plan's identity: what the images depend on, as plain JSON values."""
        config = {
            key: value
            for key, value in dataclasses.asdict(self.config).items()
            if key not in _NOT_OF_IMAGES
        }
        plan = {
            **config,
            "target_sampling": self.weights.identity,
            "seed": self.seed,
            "num_classes": self.num_classes,
            "images": self._images_digest(),
            "planned": len(self),
            **({"sizes": self.sizes} if self.sizes else {}),
        }
        return json.loads(json.dumps(plan))

    def _images_digest(self) -> str:
        """SHA-256 of `json.dumps([ids, labels])`, made block by block."""
        digest = hashlib.sha256(b"[")
        blocks: list[Callable[[slice], list]] = [
            lambda rows: self.image_ids[rows].to_pylist(),
            lambda rows: self.labels[rows].tolist(),
        ]
        for number, block in enumerate(blocks):
            digest.update(b", [" if number else b"[")
            for first in range(0, len(self.labels), BLOCK):
                text = json.dumps(block(slice(first, first + BLOCK)))[1:-1]
                digest.update((", " if first else "").encode() + text.encode())
            digest.update(b"]")
        digest.update(b"]")
        return digest.hexdigest()

    def columns(self, ids: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """The specs of `ids` column by column, each of shape [n].

        `source` (int64) is the row of the real image, -1 for none. The other columns are fields of
        `MixSpec`: int64, `strength` float32.
        """
        uniform = self._uniform(ids)
        source, source_label = self._sources(uniform[:, 0], uniform[:, 1])
        target = self._targets(uniform[:, 2], source_label)
        if self.strategy.target == "same":
            target = source_label
        strength = self._strengths(uniform[:, 3])
        if self.from_noise:
            source, source_label = np.full(len(ids), -1), target
            strength = np.ones(len(ids), dtype=np.float32)
        high = (uniform[:, 4] * 2**31).astype(np.int64)
        low = (uniform[:, 5] * 2**31).astype(np.int64)
        return {
            "mix_id": ids,
            "source": source,
            "source_label": source_label,
            "target_label": target,
            "strength": strength,
            "seed": high * 2**31 + low,
        }

    def specs(self, ids: Int[np.ndarray, " n"]) -> list[MixSpec]:
        """The specs of `ids`."""
        columns = self.columns(ids)
        columns["source_id"] = np.array(self.source_ids(columns["source"]), dtype=object)
        rows = zip(*(columns[name].tolist() for name in SPEC_COLUMNS), strict=True)
        return [MixSpec(**dict(zip(SPEC_COLUMNS, row, strict=True))) for row in rows]

    def source_ids(self, source: Int[np.ndarray, " n"]) -> list[str]:
        """The image ids of rows of real images; empty for -1."""
        found = self.image_ids.take(np.maximum(source, 0)).to_pylist()
        return [name if row >= 0 else "" for name, row in zip(found, source, strict=True)]

    def _uniform(self, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 8"]:
        """Eight numbers in [0, 1) for each id: two blocks of Philox at the counter 2 * id."""
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) == 0:
            return np.empty((0, 8))
        first, last = int(ids.min()), int(ids.max())
        if last - first < 4 * len(ids):  # one dense range is one call
            philox = np.random.Philox(key=self.seed, counter=2 * first)
            raw = philox.random_raw(8 * (last - first + 1)).reshape(-1, 8)[ids - first]
        else:
            counters = [2 * int(mix_id) for mix_id in ids]
            raw = np.stack(
                [np.random.Philox(key=self.seed, counter=at).random_raw(8) for at in counters]
            )
        return (raw >> np.uint64(11)) * 2.0**-53

    def _sources(
        self, of_class: Float[np.ndarray, " n"], of_image: Float[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """(rows of real images, their labels) from two draws in [0, 1) for each mix."""
        count = len(self.labels)
        if self.config.source_sampling == "image":
            source = np.minimum((of_image * count).astype(np.int64), count - 1)
            return source, self.labels[source]
        label = np.minimum((of_class * self.num_classes).astype(np.int64), self.num_classes - 1)
        size = self._sizes[label]
        offset = np.minimum((of_image * size).astype(np.int64), np.maximum(size - 1, 0))
        place = np.minimum(self._class_start[label] + offset, count - 1)
        return self._by_class[place], label

    def _targets(
        self, uniform: Float[np.ndarray, " n"], source_label: Int[np.ndarray, " n"]
    ) -> Int[np.ndarray, " n"]:
        # A chunk has few of the classes as sources. Only their rows are looked at.
        labels, place = np.unique(source_label, return_inverse=True)
        table = self.weights.table(self._sizes)[labels]
        most = self.config.referred_classes
        if most is not None and most < self.num_classes:
            table = table * self._referred[labels]
        cumulative = np.cumsum(table, axis=1)
        draw = uniform * cumulative[place, -1]
        # The first class whose cumulated weight lies above the draw. Rows differ by source, so the
        # search goes row by row.
        target = np.empty(len(uniform), dtype=np.int64)
        for number, weights in enumerate(cumulative):
            rows = place == number
            target[rows] = np.searchsorted(weights, draw[rows], side="right")
        return np.minimum(target, self.num_classes - 1)

    @cached_property
    def _referred(self) -> Bool[np.ndarray, "classes classes"]:
        """The target classes that each source class may become, drawn once from the seed."""
        allowed = np.zeros((self.num_classes, self.num_classes), dtype=bool)
        for label in range(self.num_classes):
            philox = np.random.Philox(key=self.seed, counter=[0, 0, 1, label])
            chosen = np.random.Generator(philox).choice(
                self.num_classes, self.config.referred_classes, replace=False
            )
            allowed[label, chosen] = True
        return allowed

    def _strengths(self, uniform: Float[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        if self.config.strength_beta is not None:
            from scipy.stats import beta

            drawn = beta.ppf(uniform, *self.config.strength_beta)
            return np.clip(drawn, *BETA_RANGE).astype(np.float32)
        values = np.asarray(self.config.strength, dtype=np.float32)
        return values[np.minimum((uniform * len(values)).astype(np.int64), len(values) - 1)]

    @cached_property
    def _chunks(self) -> Chunks:
        batch = self.config.batch
        if not isinstance(batch, int):
            raise ValueError(
                "mix.batch is auto; it must be a number before a plan is cut into chunks"
            )
        return cut(len(self), batch, self._steps_of, self.sizes)

    @property
    def _steps_of(self) -> StepsOf | None:
        """The number of steps of each of some mixes; None where it is the same for all."""
        most = self.config.num_inference_steps
        of_value = denoising_steps(np.array(self.config.strength, np.float32), most)
        varies = self.config.strength_beta is not None or len(np.unique(of_value)) > 1
        if self.from_noise or not varies:
            return None

        def steps(ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
            return np.asarray(denoising_steps(self._strengths(self._uniform(ids)[:, 3]), most))

        return steps


def denoising_steps(
    strength: Float[np.ndarray, "*shape"] | np.floating | float, num_inference_steps: int
) -> Int[np.ndarray, "*shape"] | np.integer:
    """How many steps of the schedule image-to-image runs, for each strength: `min(int(steps *
    strength), steps)`, as diffusers counts them.
    """
    # A float32 such as 0.7 lies a hair off. Rounded to six digits it gives the step count of the
    # number that was meant.
    exact = np.round(np.asarray(strength, dtype=np.float64), 6)
    return np.minimum((num_inference_steps * exact).astype(np.int64), num_inference_steps)


def total_steps(plan: Planned, num_inference_steps: int) -> int:
    """Denoising steps of all mixes of a plan together."""
    total = 0
    for first in range(0, len(plan), BLOCK):
        ids = np.arange(first, min(first + BLOCK, len(plan)), dtype=np.int64)
        total += int(denoising_steps(plan.columns(ids)["strength"], num_inference_steps).sum())
    return total


def make_plan(
    config: Config,
    real: RealSet | SetIndex,
    weights: PairWeights | None = None,
    sizes: Sequence[int] = (),
) -> MixPlan:
    """The plan of a run: its `mix` options over its training images. Raises as `MixPlan`."""
    return MixPlan(
        config.mix,
        real.labels,
        real.id_column,
        len(real.class_names),
        config.run.seed,
        weights,
        sizes,
    )
