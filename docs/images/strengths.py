"""Makes this folder's images and the table of docs/tuning.md from a finished `make demo`.

    .venv/bin/python docs/images/strengths.py runs/demo

About a minute on two CPU cores. Nothing is picked by hand: sources are the first image of a
class or drawn by a seed, targets follow by number.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from diffmix import images
from diffmix.classifier.oracle import oracle_share
from diffmix.config import MixConfig, ModelConfig
from diffmix.datasets.real import RealSet
from diffmix.generator.mixer import Mixer
from diffmix.plan import MixSpec
from diffmix.report.contact_sheet import Mixed, Row, mix_sheet

HERE = Path(__file__).parent
SHOWN = 0.5
LADDER = (0.3, 0.5, 0.7, 0.9)
MEASURED = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
MIXES = 192
CHUNK = 32
EDGE = 4  # pixels of the frame that counts as background
SAME = 25  # of 255


def main(run: str) -> None:
    real = RealSet.open(f"{run}/data/train.arrow")
    # What jobs/recipes/nano/demo.yaml says, but for the strength.
    mix = MixConfig(guidance_scale=5.0, num_inference_steps=12, batch=CHUNK)
    mixer = Mixer(
        ModelConfig(base="nano"), mix, real.class_names, real.superclass, f"{run}/concept"
    )
    first = [int(np.flatnonzero(real.labels == label)[0]) for label in range(10)]

    pairs = [(first[label], (label + step) % 10) for label in range(4) for step in range(1, 6)]
    made = translate(mixer, real, pairs, SHOWN, seed=0)
    mixes = [
        Mixed(image, real.class_names[target], SHOWN)
        for image, (_, target) in zip(made, pairs, strict=True)
    ]
    rows = [row(real, first[label], mixes[5 * label : 5 * label + 5]) for label in range(4)]
    title = "Left a real image, right of it the same image translated into other classes"
    mix_sheet(rows, title).save(HERE / "demo_mixes.png")

    pairs = [(first[label], (label + 3) % 10) for label in range(6)]
    by_strength = [translate(mixer, real, pairs, strength, seed=0) for strength in LADDER]
    rows = [
        row(
            real,
            source,
            [
                Mixed(made[place], real.class_names[target], strength)
                for strength, made in zip(LADDER, by_strength, strict=True)
            ],
        )
        for place, (source, target) in enumerate(pairs)
    ]
    title = "Each row has one source, one target and one noise"
    mix_sheet(rows, title).save(HERE / "strengths.png")

    generator = np.random.default_rng(1)
    sources = generator.integers(0, len(real), MIXES)
    targets = (real.labels[sources] + generator.integers(1, 10, MIXES)) % 10
    pairs = list(zip(sources.tolist(), targets.tolist(), strict=True))
    print("| strength | show the target | still show the source | background stays |")
    print("| ---: | ---: | ---: | ---: |")
    for strength in MEASURED:
        made = translate(mixer, real, pairs, strength, seed=5000)
        target = shows(made, targets, real.class_names)
        source = shows(made, real.labels[sources], real.class_names)
        same = np.mean(
            [
                edge_change(image, images.decode(real.image_bytes(index))) < SAME
                for image, (index, _) in zip(made, pairs, strict=True)
            ]
        )
        print(f"| {strength} | {100 * target:.0f} % | {100 * source:.0f} % | {100 * same:.0f} % |")


def translate(
    mixer: Mixer, real: RealSet, pairs: list[tuple[int, int]], strength: float, seed: int
) -> list[Image.Image]:
    """A mix of each (row of the source image, target class), mix i with the seed `seed` + i."""
    specs = [
        MixSpec(
            mix_id=number,
            source_id=real.image_ids[source],
            source_label=int(real.labels[source]),
            target_label=target,
            strength=float(np.float32(strength)),
            seed=seed + number,
        )
        for number, (source, target) in enumerate(pairs)
    ]
    sources = [real.image_bytes(source) for source, _ in pairs]
    made = []
    for start in range(0, len(specs), CHUNK):
        made += mixer.mix(specs[start : start + CHUNK], sources[start : start + CHUNK])
    return made


def row(real: RealSet, source: int, mixes: list[Mixed]) -> Row:
    image = images.decode(real.image_bytes(source))
    return Row(image, real.class_names[real.labels[source]], mixes)


def shows(made: list[Image.Image], labels: np.ndarray, class_names: list[str]) -> float:
    """The share of images in which the oracle sees the class of the label."""
    encoded = [images.encode(image, "png", 95) for image in made]
    table = pa.table({"image": encoded, "target_label": pa.array(labels.tolist(), pa.int32())})
    return oracle_share("nano", [table], class_names)


def edge_change(image: Image.Image, other: Image.Image) -> float:
    """How far the mean colors of two images' frames lie apart, 0 to 255."""
    outer = np.ones((image.height, image.width), dtype=bool)
    outer[EDGE:-EDGE, EDGE:-EDGE] = False
    means = [np.asarray(each)[outer].mean(axis=0) for each in (image, other)]
    return float(np.abs(means[0] - means[1]).mean())


if __name__ == "__main__":
    main(sys.argv[1])
