"""Mixes of awkward class names, and what a round trip must keep of them."""

import io

import numpy as np
import pytest
from PIL import Image

from diffmix.formats.named_mix import NamedMix

CLASS_NAMES = [
    "F/A-18",
    "Ram C/V Cargo Van",
    "Großer Würger",
    "翠鸟",
    "train",
    "test [old]",
    "o'hara's 707-320",
    "001.Laysan_Albatross",
]


def image_file(seed: int, format: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


@pytest.fixture
def class_names() -> list[str]:
    return CLASS_NAMES


@pytest.fixture
def make_mixes():
    """`make_mixes(image format)` gives 23 mixes.

    All classes occur, one mix in five is rejected, and some have no source, seed or score.
    """

    def make(format: str = "PNG") -> list[NamedMix]:
        made = []
        for i in range(23):
            image = image_file(i, format)
            source_id = f"{CLASS_NAMES[i % 8]}/{i}.jpg" if i % 4 else ""
            strength = float(np.float32([0.3, 0.7, 1.0][i % 3]))
            seed = None if i % 6 == 5 else 2**62 - 1 - i
            score = None if i % 4 == 3 else float(np.float32(i / 7))
            source, target = CLASS_NAMES[i % 8], CLASS_NAMES[(3 * i + 1) % 8]
            made.append(
                NamedMix(
                    mix_id=7 * i,
                    source_id=source_id,
                    source=source,
                    target=target,
                    strength=strength,
                    seed=seed,
                    score=score,
                    accepted=i % 5 != 0,
                    load=lambda image=image: image,
                )
            )
        return made

    return make


@pytest.fixture
def kept():
    """What a round trip must keep: all fields, the strength as a float32, and the image's bytes."""

    def fields(mix: NamedMix) -> dict:
        return vars(mix) | {
            "load": mix.load(),
            "strength": np.float32(mix.strength),
            "score": mix.score and np.float32(mix.score),
        }

    return fields
