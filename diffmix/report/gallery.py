"""What the gallery of a page shows: mixes, their sources, and the images behind confusions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from diffmix import images
from diffmix.report.data_uri import data_uri

SIDES = (320, 256, 192, 160, 128, 96)
"""Longest sides that thumbnails may have; the largest that keeps the page small is taken."""
MOST_BYTES = 11_000_000
"""Of all thumbnails of a page, as they stand in it."""
_QUALITY = 82
_KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True, kw_only=True)
class ShownMix:
    """One mix of the gallery."""

    mix_id: int
    source: int
    """Label; so is `target`."""
    target: int
    strength: float
    """In (0, 1]."""
    target_share: float
    """Of the soft label; the source class gets the rest of `label_sum`."""
    label_sum: float
    seed: int | None
    score: float | None
    """The gate's, in [0, 1]."""
    accepted: bool
    loss: float | None = None
    """The classifier's soft cross-entropy on it, in nats; None: not measured."""
    prompt: str | None = None
    image: bytes = field(repr=False)
    """An encoded file."""
    source_id: str = ""
    """Of its real image; empty: from noise, or unknown."""


@dataclass(frozen=True, kw_only=True)
class ShownTest:
    """One test image that was taken for another class."""

    image_id: str
    label: int
    taken_for: int
    image: bytes = field(repr=False)
    """An encoded file."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The images of a page."""

    mixes: Sequence[ShownMix]
    sources: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Source id -> the real image's file."""
    tests: Sequence[ShownTest] = ()
    rule: str = ""
    """Which mixes are shown, as a sentence."""

    def data(self) -> dict:
        """The gallery as JSON values. Images are thumbnails of one size, the largest that fits."""
        files = [*(mix.image for mix in self.mixes), *self.sources.values()]
        files += [test.image for test in self.tests]
        side = _side(files)
        ids = {source_id: number for number, source_id in enumerate(self.sources)}
        mixes = [
            {
                "id": mix.mix_id,
                "s": mix.source,
                "t": mix.target,
                "strength": round(mix.strength, 4),
                "label": [round(mix.target_share, 4), round(mix.label_sum - mix.target_share, 4)],
                "seed": None
                if mix.seed is None
                else str(mix.seed),  # JavaScript's numbers have 53 bits
                "score": None if mix.score is None else round(mix.score, 4),
                "ok": mix.accepted,
                "loss": None if mix.loss is None else round(mix.loss, 4),
                "prompt": mix.prompt,
                "image": thumbnail(mix.image, side),
                "source": ids.get(mix.source_id),
                "from": mix.source_id,
            }
            for mix in self.mixes
        ]
        tests = [
            {
                "id": test.image_id,
                "i": test.label,
                "j": test.taken_for,
                "image": thumbnail(test.image, side),
            }
            for test in self.tests
        ]
        sources = [thumbnail(file, side) for file in self.sources.values()]
        return {"mixes": mixes, "sources": sources, "tests": tests, "side": side}


def thumbnail(file: bytes, side: int) -> str:
    """A file of an image as a `data:` URI with a longest side of at most `side` pixels. A small
    file stays as it is.
    """
    with Image.open(io.BytesIO(file)) as found:
        kind = _KINDS.get(found.format or "")
        if kind and max(found.size) <= side and len(file) <= 200 * side:
            return data_uri(kind, file)
    small = images.decode(file)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_uri("image/jpeg", images.encode(small, "jpeg", _QUALITY))


def _side(files: Sequence[bytes]) -> int:
    """The largest side at which all thumbnails together are small enough, by a sample of them."""
    if not files:
        return SIDES[-1]
    sample = files[:: max(len(files) // 16, 1)]
    for side in SIDES:
        mean = sum(len(thumbnail(file, side)) for file in sample) / len(sample)
        if mean * len(files) <= MOST_BYTES:
            return side
    return SIDES[-1]
