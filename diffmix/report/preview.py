"""A contact sheet of a concept before GPU-days are spent: a few sources, several targets, strength
rising from left to right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffmix import gates, images, strategies
from diffmix.config import Config, MixConfig
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
    from diffmix.generator.mixer import Mixer

STRENGTHS = (0.3, 0.5, 0.7, 0.9)
"""What is shown where the configuration has a single strength."""
SOURCES, TARGETS = 3, 3
"""Source images, and classes that each is translated into."""
DRAWS = 5
"""Images of each class where the strategy starts from noise."""


def preview(config: Config) -> dict:
    """Make `<out>/preview.png` with the concept of `personalize.concept` or `<out>/concept`, in
    this process and without a cluster.

    Gives what was shown: `picture` (the path), `sources` and `targets` (class names), `strengths`,
    `images` (their number), `scores` (with a gate: the mean at each strength, that of the real
    images at 0.0; else empty). Another `run.seed` shows other sources and targets. Raises
    `UserError` where there is no concept and the strategy needs one, and for whatever else makes a
    run impossible. Decodes all images on a first run in `out`, as a run would.
    """
    check(config)
    if not config.out:
        raise UserError("--out is not set: name the folder that preview.png is to be written to.")
    out = Folder(config.out).create()
    base_path(config.model)
    # The classes are not known yet; what the gate reads is.
    if gate := gates.configured(config.gate, "superclass", ()):
        gate.check()
    concept = _concept(config, out)
    real = prepare(config.data, out.uri).train
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
    what = (
        "each row is one class, made from noise"
        if mixer.strategy.from_noise
        else "each row has the same noise, and strength rises"
    )
    out.write("preview.png", png(mix_sheet(rows, f"{config.mix.strategy}: {what}")))
    return {
        "picture": f"{out.uri}/preview.png",
        "sources": list(dict.fromkeys(row.source_class for row in rows if row.source)),
        "targets": list(dict.fromkeys(mix.target for row in rows for mix in row.mixes)),
        "strengths": list(
            dict.fromkeys(float(short(mix.strength)) for row in rows for mix in row.mixes)
        ),
        "images": sum(len(row.mixes) for row in rows),
        "scores": _mean_scores(rows),
    }


def preview_rows(mixer: Mixer, real: RealSet, seed: int) -> list[Row]:
    """The sheet's rows: one source and target each, at every strength with the same noise, so that
    only the strength differs.

    For strategies from noise a row is one class, drawn several times. The mixer is called once or
    more for each strength.
    """
    pairs = _pairs(mixer.strategy, real, np.random.default_rng(seed))
    strengths = [1.0] * DRAWS if mixer.strategy.from_noise else preview_strengths(mixer.config)
    sources = [images.decode(real.image_bytes(index)) if index >= 0 else None for index, _ in pairs]
    rows = [
        Row(source, real.class_names[real.labels[index] if index >= 0 else target], [])
        for source, (index, target) in zip(sources, pairs, strict=True)
    ]
    size = mixer.batch
    for column, strength in enumerate(strengths):
        noise = 1000 * seed + (
            100 * column if mixer.strategy.from_noise else 0
        )  # from noise, draws have nothing else to differ in
        specs = [
            MixSpec(
                column * len(pairs) + row,
                real.image_ids[index] if index >= 0 else "",
                int(real.labels[index]) if index >= 0 else target,
                target,
                strength,
                noise + row,
            )
            for row, (index, target) in enumerate(pairs)
        ]
        for first in range(0, len(specs), size):
            for spec, image in zip(
                specs[first:],
                mixer.mix(specs[first : first + size], sources[first : first + size]),
                strict=False,
            ):
                rows[spec.mix_id % len(pairs)].mixes.append(
                    Mixed(image, real.class_names[spec.target_label], strength)
                )
    return rows


def score_rows(rows: list[Row], scorer: Scorer, class_names: list[str]) -> list[Row]:
    """The same rows with the gate's score of each image, the real ones too: they show what a good
    score is.
    """
    scored = []
    for row in rows:
        label = class_names.index(row.source_class)
        specs = [
            MixSpec(0, "", label, class_names.index(mix.target), mix.strength, 0)
            for mix in row.mixes
        ]
        scores = scorer.score([mix.image for mix in row.mixes], specs)
        mixes = [
            mix._replace(score=float(score)) for mix, score in zip(row.mixes, scores, strict=True)
        ]
        source = None
        if row.source:
            source = float(scorer.score([row.source], [MixSpec(0, "", label, label, 0, 0)])[0])
        scored.append(row._replace(mixes=mixes, source_score=source))
    return scored


def _mean_scores(rows: list[Row]) -> dict[float, float]:
    """Strength -> mean score of the rows' mixes, rising, with the real images as strength 0; empty
    where nothing was scored.
    """
    scores: dict[float, list[float]] = {}
    for row in rows:
        pictures = [
            (0.0, row.source_score),
            *((float(short(mix.strength)), mix.score) for mix in row.mixes),
        ]
        for strength, score in pictures:
            if score is not None:
                scores.setdefault(strength, []).append(score)
    return {strength: float(np.mean(values)) for strength, values in sorted(scores.items())}


def preview_strengths(mix: MixConfig) -> list[float]:
    """The strengths to show, rising: the configuration's if it has several, else `STRENGTHS`; at
    least one denoising step each.
    """
    chosen = mix.strength if len(mix.strength) > 1 and mix.strength_beta is None else STRENGTHS
    # float32, as a plan's strengths are: a mix of the run at this strength does exactly the same.
    return [
        float(np.float32(strength))
        for strength in sorted(set(chosen))
        if denoising_steps(strength, mix.num_inference_steps) >= 1
    ]


def _pairs(
    strategy: Strategy, real: RealSet, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """(row of the source image or -1, target class) of each row of the sheet."""
    classes = generator.permutation(len(real.class_names)).tolist()
    if strategy.from_noise:
        return [(-1, target) for target in classes[: SOURCES + TARGETS]]
    several = SOURCES * TARGETS if strategy.target == "same" else SOURCES
    sources = [
        int(generator.choice(np.flatnonzero(real.labels == label))) for label in classes[:several]
    ]
    if strategy.target == "same":
        return [(index, int(real.labels[index])) for index in sources]
    # Targets come from the far end, so that with enough classes none of them is a source.
    return [
        (index, target)
        for index in sources
        for target in [c for c in classes[::-1] if c != real.labels[index]][:TARGETS]
    ]


def _concept(config: Config, out: Folder) -> str | None:
    """A local folder of the concept, or None where the strategy uses the base model as it is."""
    if not strategies.find(config.mix.strategy).uses_concept:
        return None
    given = config.personalize.concept
    if not given and not (out / "concept").exists("concept.json"):
        raise UserError(
            f"There is no concept in {out.uri}; set --personalize.concept to one, or run diffmix personalize first."
        )
    return (Folder(given) if given else out / "concept").fetch()
