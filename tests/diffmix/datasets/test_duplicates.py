"""Images that occur more than once."""

import io

import numpy as np
from PIL import Image

from diffmix.datasets.duplicates import (
    Seen,
    Twin,
    contradictions,
    digest_of_pixels,
    digests_of,
    said,
    twins,
)
from diffmix.images import decode


def seen(image_id: str, data: bytes, class_name: str = "a") -> Seen:
    image = decode(data)
    return Seen(image_id, digests_of(data, image), class_name, lambda: digest_of_pixels(image))


def file(seed: int, format: str = "PNG", size=(4, 6), **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def test_the_same_bytes_and_the_same_pixels_are_told_apart():
    others = [seen("x", file(1)), seen("y", file(2)), seen("z", file(2, "BMP"))]
    images = [seen("same", file(1)), seen("other file", file(1, "BMP")), seen("new", file(3))]
    assert twins(images, others) == [Twin("same", "x", True), Twin("other file", "x", False)]
    assert twins([seen("a", file(2, "BMP"))], others) == [Twin("a", "z", True)]
    assert said(twins(images, others), "test images") == (
        "test images: 2 (1 with the same bytes, 1 with the same pixels in another file), such as "
        "'same' and 'x'"
    )


def test_the_shape_counts():
    flat = Image.new("RGB", (4, 6)), Image.new("RGB", (6, 4))
    assert digests_of(b"", flat[0]).rows != digests_of(b"", flat[1]).rows


def test_all_pixels_count_where_some_rows_are_the_same():
    """Of 64 rows every eighth one is looked at first."""
    pixels = np.zeros((64, 4, 3), dtype=np.uint8)
    files = []
    for value in (0, 1, 2):
        pixels[1] = value
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files.append(buffer.getvalue())
    others = [seen("0", files[0]), seen("1", files[1])]
    assert len({other.digests.rows for other in others}) == 1
    bmp = io.BytesIO()
    decode(files[1]).save(bmp, "BMP")
    images = [seen("another", files[2]), seen("one", bmp.getvalue())]
    assert twins(images, others) == [Twin("one", "1", False)]


def test_one_image_in_two_classes():
    images = [seen("1", file(1), "a"), seen("2", file(1), "a"), seen("3", file(1, "BMP"), "b")]
    assert contradictions(images) == [Twin("3", "1", False)]
