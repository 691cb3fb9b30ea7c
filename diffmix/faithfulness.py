"""How faithful mixes are to their target classes, and how far they go from their sources: the
paper's two sides of a strategy.

Faithful: the CLIP score against the target class's prompt, and the Frechet distance between real
and mixed features (FID with another extractor). Diverse: the distance between a mix's features and
its source image's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffmix import images
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.generator.concept import prompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffmix.gates.clip import Clip

CLASS_PROMPT = "a photo of a {class_name}, a type of {superclass}"
"""CLIP's own prompt for fine-grained classes (Radford et al. 2021, section 3.1.4)."""
_BATCH = 64


class FeatureExtractor(NamedTuple):
    """A named map from RGB images of any size to features, float32 [n, d]."""

    name: str
    extract: Callable[[list[Image]], np.ndarray]


class StoredMix(NamedTuple):
    """What is looked at of a mix."""

    image: bytes
    source_id: str
    """Empty for a mix from noise."""
    source_label: int
    target_label: int
    strength: float


class Gaussian:
    """Mean and covariance of features, added batch by batch, so that memory does not grow with
    their number.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: np.ndarray | float = 0.0
        self._outer: np.ndarray | float = 0.0
        self._shift: np.ndarray | float = 0.0

    def add(self, features: np.ndarray) -> None:
        """float [n, d]."""
        if not len(features):
            return
        if not self.count:
            self._shift = features[0].astype(
                np.float64
            )  # keeps sums of squares small beside the variance that is left of them
        moved = features.astype(np.float64) - self._shift
        self.count += len(features)
        self._sum = self._sum + moved.sum(axis=0)
        self._outer = self._outer + moved.T @ moved

    @property
    def mean(self) -> np.ndarray:
        """float64 [d]."""
        return np.asarray(self._shift + self._sum / self.count)

    @property
    def covariance(self) -> np.ndarray:
        """float64 [d, d], with n - 1 in the denominator as FID has it; needs two features or more."""
        return np.asarray(
            (self._outer - np.outer(self._sum, self._sum) / self.count) / (self.count - 1)
        )


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)), as FID has it (Heusel et al. 2017, equation 6).

    The trace of the root is taken through symmetric matrices, so that covariances of fewer images
    than dimensions do no harm.
    """
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other.covariance @ root), 0, None)).sum()
    difference = one.mean - other.mean
    return float(
        difference @ difference + np.trace(one.covariance) + np.trace(other.covariance) - 2 * cross
    )


def load_features(name: str, clip: Clip | None, device: str = "cpu") -> FeatureExtractor:
    """The extractor that `evaluate.features` names: `clip`, or a timm model with its pre-trained
    weights, before its head.

    `UserError` where there is no CLIP, no such model or no weights.
    """
    if name == "clip":
        if clip is None:
            raise UserError(
                "--evaluate.features is clip, but there is none; set --gate.clip or name a timm model instead."
            )
        return FeatureExtractor(clip.name, lambda pictures: clip.embed_pictures(pictures).numpy())
    import timm
    import torch

    try:
        model = timm.create_model(name, pretrained=True, num_classes=0).to(device).eval()
    except (
        Exception
    ) as error:  # an unknown name, weights that cannot be had, a file that does not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--evaluate.features {name} cannot be loaded ({reason}); name another timm model, or clip."
        ) from error
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )

    @torch.inference_mode()
    def extract(pictures: list[Image]) -> np.ndarray:
        return (
            model(torch.stack([transform(picture) for picture in pictures]).to(device))
            .float()
            .cpu()
            .numpy()
        )

    return FeatureExtractor(name, extract)


def faithfulness(
    mixes: Iterable[Sequence[StoredMix]],
    real: RealSet,
    extractor: FeatureExtractor,
    clip: Clip | None,
) -> dict:
    """Figures of all mixes, and under `by_strength` of those of each strength (rounded to a tenth).

    `clip_score`: 100 x cosine between a mix and its target class's prompt, 0 where that is negative
    (Hessel et al. 2021, as torchmetrics scales it); `clip_score_source_class` the same against the
    source's class; `clip_score_real` that of real images against their own. `source_distance`: 1 -
    cosine between the features of a mix and of its source image, 0 to 2. `frechet_distance`:
    between the features of mixes and of all `real` images. Figures that need a CLIP, a source or a
    second image are left out where there is none; a composed store's mixes may have sources that
    are not among the `real` images. `features` names the extractor, `real_images` counts the real
    images. `mixes` come in batches and may be longer than memory; their features (float32 [n, d])
    may not.
    """
    judge = _ClassScores(clip, real) if clip else None
    seen: list[_Seen] = []
    for batch in mixes:
        pictures = [images.decode(mix.image) for mix in batch]
        features = extractor.extract(pictures)
        target = source = np.full(len(batch), np.nan)
        if judge:
            target, source = judge(
                pictures, [mix.target_label for mix in batch], [mix.source_label for mix in batch]
            )
        for row, mix in enumerate(batch):
            seen.append(
                _Seen(
                    features[row],
                    mix.source_id,
                    round(mix.strength, 1),
                    target[row],
                    source[row] if mix.source_id else np.nan,
                )
            )

    wanted = {mix.source_id for mix in seen}
    of_source: dict[str, np.ndarray] = {}
    reals, real_scores = Gaussian(), []
    for first in range(0, len(real), _BATCH):
        rows = range(first, min(first + _BATCH, len(real)))
        pictures = [images.decode(real.image_bytes(row)) for row in rows]
        features = extractor.extract(pictures)
        reals.add(features)
        of_source |= {
            real.image_ids[row]: one
            for row, one in zip(rows, features, strict=True)
            if real.image_ids[row] in wanted
        }
        if judge:
            real_scores += judge(pictures, real.labels[rows.start : rows.stop])[0].tolist()

    result = {
        "features": extractor.name,
        "real_images": len(real),
        **_figures(seen, of_source, reals),
    }
    if judge:
        result["clip_score_real"] = float(np.mean(real_scores))
    strengths = sorted({mix.strength for mix in seen})
    return result | {
        "by_strength": {
            f"{strength:g}": _figures([m for m in seen if m.strength == strength], of_source, reals)
            for strength in strengths
        }
    }


class _Seen(NamedTuple):
    """A mix that was looked at."""

    features: np.ndarray
    source_id: str
    strength: float
    target_score: float
    """NaN without a CLIP."""
    source_score: float
    """NaN without a CLIP or a source."""


class _ClassScores:
    """CLIP scores of pictures against their classes' prompts."""

    def __init__(self, clip: Clip, real: RealSet):
        self._clip = clip
        self._prompts = clip.embed_prompts(
            [prompt(CLASS_PROMPT, None, name, real.superclass) for name in real.class_names]
        ).numpy()

    def __call__(
        self, pictures: list[Image], *labels: Sequence[int] | np.ndarray
    ) -> list[np.ndarray]:
        """float [n] for each list of n labels: the classes that the n pictures are compared with."""
        embedded = self._clip.embed_pictures(pictures).numpy()
        return [
            100 * np.clip((embedded * self._prompts[np.asarray(each)]).sum(axis=1), 0, None)
            for each in labels
        ]


def _figures(mixes: list[_Seen], of_source: dict[str, np.ndarray], reals: Gaussian) -> dict:
    found: dict = {"mixes": len(mixes)}
    columns = {
        "clip_score": [mix.target_score for mix in mixes],
        "clip_score_source_class": [mix.source_score for mix in mixes],
        "source_distance": [
            _cosine_distance(mix.features, of_source[mix.source_id])
            for mix in mixes
            if mix.source_id in of_source
        ],
    }
    for name, values in columns.items():
        known = np.array(values)[~np.isnan(values)]
        if len(known):
            found[name] = float(known.mean())
    if min(len(mixes), reals.count) > 1:
        mixed = Gaussian()
        mixed.add(np.stack([mix.features for mix in mixes]))
        found["frechet_distance"] = frechet_distance(mixed, reals)
    return found


def _cosine_distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(1 - one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
