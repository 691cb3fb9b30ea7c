"""A contact sheet of a concept, made before GPU-days are spent.

It shows a few sources and several targets, with strength rising from left to right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffmix import gates, images, strategies
from diffmix.config import Config, MixConfig, images_of
from diffmix.config_check import check
from diffmix.datasets.prepare import prepare
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.gates import Scorer
from diffmix.generator.base_model import base_path
from diffmix.plan import MixSpec, denoising_steps
from diffmix.report.contact_sheet import Mixed, Row, mix_sheet, short
from diffmix.report.html import png
from diffmix.storage import Folder
from diffmix.strategies import Strategy

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffmix.generator.mixer import Mixer

STRENGTHS = (0.3, 0.5, 0.7, 0.9)
"""The strengths of the sheet if the configuration has a single one."""
SOURCES, TARGETS = 3, 3
"""Number of source images, and of classes that each of them is translated into."""
DRAWS = 5
"""Images per class if the strategy starts from noise."""


def preview(config: Config) -> dict:
    """Make `<out>/preview.png` in this process, without a cluster.

    The concept is that of `personalize.concept`, else that in `<out>/concept`. `run.seed` chooses
    sources and targets. If `out` is new, all images of the data set are decoded first, as in a run.
    Returns:

    - `path`: of the sheet;
    - `sources`, `targets`: names of the classes shown;
    - `strengths`: those shown, rising; `images`: the number of mixes;
    - `scores`: strength -> mean score of the gate, with the real images at 0.0; empty without one.

    Raises `UserError` if the strategy needs a concept and there is none, and for everything else
    that makes a run impossible.
    """
    check(config)
    if not config.out:
        raise UserError("--out is not set: name the folder that preview.png is to be written to.")
    out = Folder(config.out).create()
    base_path(config.model)
    # A check before the images are read. It needs neither the superclass nor the class names.
    if gate := gates.configured(config.gate, "superclass", ()):
        gate.check()
    concept = _concept(config, out)
    real = prepare(images_of(config), out.uri).train
    from diffmix.generator.mixer import Mixer

    mixer = Mixer(
        config.model,
        config.mix,
        real.class_names,
        real.superclass,
        concept,
        config.personalize.prompts[0],
    )
    rows = preview_rows(mixer, real, config.run.seed)
    if gate := gates.configured(config.gate, real.superclass, real.class_names):
        rows = score_rows(rows, gate.load(mixer.device.type), real.class_names)
    what = "each row has the same noise, and strength rises"
    if mixer.strategy.from_noise:
        what = "each row is one class, made from noise"
    out.write("preview.png", png(mix_sheet(rows, f"{config.mix.strategy}: {what}")))
    mixes = [mix for row in rows for mix in row.mixes]
    return {
        "path": f"{out.uri}/preview.png",
        "sources": list(dict.fromkeys(row.source_class for row in rows if row.source)),
        "targets": list(dict.fromkeys(mix.target for mix in mixes)),
        "strengths": list(dict.fromkeys(float(short(mix.strength)) for mix in mixes)),
        "images": len(mixes),
        "scores": _mean_scores(rows),
    }


def preview_rows(mixer: Mixer, real: RealSet, seed: int) -> list[Row]:
    """The rows of the sheet.

    A row has one source, one target and the same noise at every strength, so that only the strength
    differs. With a strategy from noise, a row is one class with different noise in each column. The
    mixer is called at least once per strength.
    """
    pairs = _pairs(mixer.strategy, real, np.random.default_rng(seed))
    strengths = [1.0] * DRAWS if mixer.strategy.from_noise else preview_strengths(mixer.config)
    sources = [images.decode(real.image_bytes(index)) if index >= 0 else None for index, _ in pairs]
    labels = [int(real.labels[index]) if index >= 0 else target for index, target in pairs]
    rows = [
        Row(source, real.class_names[label], [])
        for source, label in zip(sources, labels, strict=True)
    ]
    for column, strength in enumerate(strengths):
        # With a strategy from noise, nothing else differs between the columns.
        noise = 1000 * seed + (100 * column if mixer.strategy.from_noise else 0)
        specs = [
            MixSpec(
                mix_id=column * len(pairs) + row,
                source_id=real.image_ids[index] if index >= 0 else "",
                source_label=labels[row],
                target_label=target,
                strength=strength,
                seed=noise + row,
            )
            for row, (index, target) in enumerate(pairs)
        ]
        made: list[Image] = []
        for first in range(0, len(specs), mixer.batch):
            batch = slice(first, first + mixer.batch)
            made += mixer.mix(specs[batch], sources[batch])
        for row, image, (_, target) in zip(rows, made, pairs, strict=True):
            row.mixes.append(Mixed(image, real.class_names[target], strength))
    return rows


def score_rows(rows: list[Row], scorer: Scorer, class_names: list[str]) -> list[Row]:
    """The same rows with the gate's score of each mix and each real image.

    The scores of real images show what a good score is.
    """

    def spec(row: Row, target: str, strength: float) -> MixSpec:
        return MixSpec(
            mix_id=0,
            source_id="",
            source_label=class_names.index(row.source_class),
            target_label=class_names.index(target),
            strength=strength,
            seed=0,
        )

    scored = []
    for row in rows:
        specs = [spec(row, mix.target, mix.strength) for mix in row.mixes]
        scores = scorer.score([mix.image for mix in row.mixes], specs)
        mixes = [
            mix._replace(score=float(score)) for mix, score in zip(row.mixes, scores, strict=True)
        ]
        source = None
        if row.source:
            source = float(scorer.score([row.source], [spec(row, row.source_class, 0)])[0])
        scored.append(row._replace(mixes=mixes, source_score=source))
    return scored


def _mean_scores(rows: list[Row]) -> dict[float, float]:
    """Strength -> mean score of the mixes, rising. The real images have strength 0.

    Empty without scores.
    """
    scores: dict[float, list[float]] = {}
    for row in rows:
        shown = [(float(short(mix.strength)), mix.score) for mix in row.mixes]
        for strength, score in [(0.0, row.source_score), *shown]:
            if score is not None:
                scores.setdefault(strength, []).append(score)
    return {strength: float(np.mean(values)) for strength, values in sorted(scores.items())}


def preview_strengths(mix: MixConfig) -> list[float]:
    """The strengths to show, rising: the configuration's if it has several, else `STRENGTHS`.

    Strengths that would run no denoising step are left out.
    """
    chosen = mix.strength if len(mix.strength) > 1 and mix.strength_beta is None else STRENGTHS
    # float32, like the strengths of a plan, so that a mix of the run would be exactly the same.
    return [
        float(np.float32(strength))
        for strength in sorted(set(chosen))
        if denoising_steps(strength, mix.num_inference_steps) >= 1
    ]


def _pairs(
    strategy: Strategy, real: RealSet, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Row of the source image, or -1 for none, and target label: one pair per row of the sheet."""
    classes = generator.permutation(len(real.class_names)).tolist()
    if strategy.from_noise:
        return [(-1, target) for target in classes[: SOURCES + TARGETS]]
    several = SOURCES * TARGETS if strategy.target == "same" else SOURCES
    sources = [
        int(generator.choice(np.flatnonzero(real.labels == label))) for label in classes[:several]
    ]
    if strategy.target == "same":
        return [(index, int(real.labels[index])) for index in sources]
    pairs = []
    for index in sources:
        # Targets come from the far end, so that with enough classes none of them is a source.
        others = [label for label in classes[::-1] if label != real.labels[index]]
        pairs += [(index, target) for target in others[:TARGETS]]
    return pairs


def _concept(config: Config, out: Folder) -> str | None:
    """The local folder of the concept; None if the strategy needs no concept."""
    if not strategies.find(config.mix.strategy).uses_concept:
        return None
    given = config.personalize.concept
    if not given and not (out / "concept").exists("concept.json"):
        raise UserError(
            f"There is no concept in {out.uri}; set --personalize.concept to one, "
            "or run diffmix personalize first."
        )
    return (Folder(given) if given else out / "concept").fetch()
