"""Image files of random content, for measurements in which only their size and detail matter."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def random_file(
    random: np.random.Generator, detail: int, side: int | None = None, form: str = "JPEG"
) -> bytes:
    """A square image file: `detail` x `detail` random colors, enlarged to `side` px (None: not).

    About 8 px for each color give a JPEG the bytes of a photograph.
    """
    image = Image.fromarray(random.integers(0, 256, (detail, detail, 3), dtype=np.uint8))
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, form, **({"quality": 95} if form == "JPEG" else {}))
    return file.getvalue()
