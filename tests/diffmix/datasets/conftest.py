import io
import os

import numpy as np
import pytest
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # read by `datasets` when it is imported, which no test has done yet


@pytest.fixture
def picture():
    """A function that gives the file of a small random picture, another one for each seed."""

    def make(seed: int, format: str = "PNG", side: int = 8) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, format)
        return buffer.getvalue()

    return make


@pytest.fixture
def image_folder(tmp_path, picture):
    """A function that writes `{class name: number of images}` as an image folder and gives its path."""

    def make(counts: dict[str, int], name: str = "photos"):
        seed = 0
        for class_name, count in counts.items():
            (tmp_path / name / class_name).mkdir(parents=True)
            for index in range(count):
                (tmp_path / name / class_name / f"{index:02d}.png").write_bytes(picture(seed))
                seed += 1
        return tmp_path / name

    return make
