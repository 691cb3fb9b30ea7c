"""Faithfulness and diversity of mixes: the two measures by which the paper compares strategies.

Faithfulness: the CLIP score against the prompt of the target class, and the Frechet distance
between the features of real images and of mixes (FID with another extractor). Diversity: the
distance between the features of a mix and of its source image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int
from PIL.Image import Image

from diffmix import images
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError, reason
from diffmix.generator.concept import prompt

if TYPE_CHECKING:
    from diffmix.gates.clip_model import Clip

CLASS_PROMPT = "a photo of a {class_name}, a type of {superclass}"
"""CLIP's own prompt for fine-grained classes (Radford et al. 2021, section 3.1.4)."""
_BATCH = 64


class FeatureExtractor(NamedTuple):
    """A named function from RGB images of any size to features."""

    name: str
    extract: Callable[[list[Image]], np.ndarray]
    """Gives float32 [images, dim]."""


@dataclass(frozen=True, kw_only=True)
class StoredMix:
    """The columns of a mix store that the measures need."""

    image: bytes
    """The image file."""
    source_id: str
    """Empty for a mix from noise."""
    source_label: int
    target_label: int
    strength: float


class Gaussian:
    """Mean and covariance of features that are added batch by batch.

    The memory does not grow with the number of features.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: np.ndarray | float = 0.0
        self._outer: np.ndarray | float = 0.0
        self._shift: np.ndarray | float = 0.0

    def add(self, features: Float[np.ndarray, "images dim"]) -> None:
        """Add a batch, which may be empty."""
        if not len(features):
            return
        if not self.count:
            # Without the shift, the sums of squares would be large beside the variance, which is
            # their small difference.
            self._shift = features[0].astype(np.float64)
        moved = features.astype(np.float64) - self._shift
        self.count += len(features)
        self._sum = self._sum + moved.sum(axis=0)
        self._outer = self._outer + moved.T @ moved

    @property
    def mean(self) -> Float64[np.ndarray, " dim"]:
        """The mean of the features."""
        return np.asarray(self._shift + self._sum / self.count)

    @property
    def covariance(self) -> Float64[np.ndarray, "dim dim"]:
        """The covariance of n >= 2 features, with n - 1 in the denominator, as in FID."""
        return np.asarray(
            (self._outer - np.outer(self._sum, self._sum) / self.count) / (self.count - 1)
        )


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)): FID's formula (Heusel et al. 2017, equation 6).

    The trace of the root is computed from symmetric matrices, which also works for covariances of
    fewer images than dimensions.
    """
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other.covariance @ root), 0, None)).sum()
    difference = one.mean - other.mean
    return float(
        difference @ difference + np.trace(one.covariance) + np.trace(other.covariance) - 2 * cross
    )


def load_features(name: str, clip: Clip | None, device: str = "cpu") -> FeatureExtractor:
    """The extractor that `evaluate.features` names.

    `clip` stands for the gate's CLIP. Other names are timm models with pre-trained weights; their
    features are those before the head. Raises `UserError` if there is no CLIP, no such model or no
    weights.
    """
    if name == "clip":
        if clip is None:
            raise UserError(
                "--evaluate.features is clip, but there is none; "
                "set --gate.clip or name a timm model instead."
            )
        return FeatureExtractor(clip.name, lambda batch: clip.embed_images(batch).numpy())
    import timm
    import torch

    try:
        model = timm.create_model(name, pretrained=True, num_classes=0).to(device).eval()
    # timm and its hub clients raise errors of many types: for an unknown name, for weights that
    # cannot be loaded, for a file that does not fit.
    except Exception as error:
        raise UserError(
            f"--evaluate.features {name} cannot be loaded ({reason(error)}); "
            "name another timm model, or clip."
        ) from error
    data_config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**data_config, is_training=False)

    @torch.inference_mode()
    def extract(batch: list[Image]) -> Float[np.ndarray, "images dim"]:
        inputs = torch.stack([transform(image) for image in batch])
        return model(inputs.to(device)).float().cpu().numpy()

    return FeatureExtractor(name, extract)


def faithfulness(
    mixes: Iterable[Sequence[StoredMix]],
    real: RealSet,
    extractor: FeatureExtractor,
    clip: Clip | None,
) -> dict:
    """Figures of all mixes and, in `by_strength`, of the mixes of each strength, rounded to 0.1.

    - `clip_score`: 100 x cosine between a mix and the prompt of its target class, 0 if negative
      (Hessel et al. 2021, scaled as in torchmetrics);
    - `clip_score_source_class`: the same against the source class;
    - `clip_score_real`: the same for real images against their own class;
    - `source_distance`: 1 - cosine between the features of a mix and of its source image, 0 to 2;
    - `frechet_distance`: between the features of the mixes and of all `real` images;
    - `mixes`, `real_images`: their numbers; `features`: the name of the extractor.

    A figure is left out if it needs a CLIP, a source or a second image that does not exist. The
    mixes of a composed store may have sources that are not among the `real` images. `mixes` come in
    batches and may be larger than the memory; their features (float32 [mixes, dim]) may not.
    """
    judge = _ClassScores(clip, real) if clip else None
    seen = [one for batch in mixes for one in _look_at(batch, extractor, judge)]
    wanted = {mix.source_id for mix in seen}
    of_source: dict[str, np.ndarray] = {}
    reals, real_scores = Gaussian(), []
    for first in range(0, len(real), _BATCH):
        rows = range(first, min(first + _BATCH, len(real)))
        batch = [images.decode(real.image_bytes(row)) for row in rows]
        features = extractor.extract(batch)
        reals.add(features)
        for row, one in zip(rows, features, strict=True):
            if real.image_ids[row] in wanted:
                of_source[real.image_ids[row]] = one
        if judge:
            real_scores += judge(batch, real.labels[rows.start : rows.stop])[0].tolist()

    result = {
        "features": extractor.name,
        "real_images": len(real),
        **_figures(seen, of_source, reals),
    }
    if judge:
        result["clip_score_real"] = float(np.mean(real_scores))
    by_strength = {}
    for strength in sorted({mix.strength for mix in seen}):
        same = [mix for mix in seen if mix.strength == strength]
        by_strength[f"{strength:g}"] = _figures(same, of_source, reals)
    return result | {"by_strength": by_strength}


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is kept of a mix: features and scores, but not the image."""

    features: Float[np.ndarray, " dim"]
    source_id: str
    strength: float
    """Rounded to 0.1."""
    target_score: float | np.floating
    """NaN without a CLIP."""
    source_score: float | np.floating
    """NaN without a CLIP or a source."""


class _ClassScores:
    """CLIP scores of images against the prompts of classes."""

    def __init__(self, clip: Clip, real: RealSet):
        self._clip = clip
        self._prompts = clip.embed_prompts(
            [prompt(CLASS_PROMPT, None, name, real.superclass) for name in real.class_names]
        ).numpy()

    def __call__(
        self, batch: list[Image], *labels: Int[np.ndarray, " images"]
    ) -> list[Float[np.ndarray, " images"]]:
        """For each array of labels, the scores of the images against these classes, 0 to 100."""
        embedded = self._clip.embed_images(batch).numpy()
        scores = []
        for each in labels:
            cosine = (embedded * self._prompts[each]).sum(axis=1)
            scores.append(100 * np.clip(cosine, 0, None))
        return scores


def _look_at(
    batch: Sequence[StoredMix], extractor: FeatureExtractor, judge: _ClassScores | None
) -> Iterator[_Seen]:
    decoded = [images.decode(mix.image) for mix in batch]
    features = extractor.extract(decoded)
    target = source = np.full(len(batch), np.nan)
    if judge:
        targets = np.array([mix.target_label for mix in batch], dtype=int)
        sources = np.array([mix.source_label for mix in batch], dtype=int)
        target, source = judge(decoded, targets, sources)
    for row, mix in enumerate(batch):
        yield _Seen(
            features=features[row],
            source_id=mix.source_id,
            strength=round(mix.strength, 1),
            target_score=target[row],
            source_score=source[row] if mix.source_id else np.nan,
        )


def _figures(mixes: list[_Seen], of_source: dict[str, np.ndarray], reals: Gaussian) -> dict:
    found: dict = {"mixes": len(mixes)}
    distances = []
    for mix in mixes:
        if mix.source_id in of_source:
            distances.append(_cosine_distance(mix.features, of_source[mix.source_id]))
    columns = {
        "clip_score": [mix.target_score for mix in mixes],
        "clip_score_source_class": [mix.source_score for mix in mixes],
        "source_distance": distances,
    }
    for name, values in columns.items():
        column = np.array(values)
        known = column[~np.isnan(column)]
        if len(known):
            found[name] = float(known.mean())
    if min(len(mixes), reals.count) > 1:
        mixed = Gaussian()
        mixed.add(np.stack([mix.features for mix in mixes]))
        found["frechet_distance"] = frechet_distance(mixed, reals)
    return found


def _cosine_distance(one: Float[np.ndarray, " dim"], other: Float[np.ndarray, " dim"]) -> float:
    return float(1 - one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
