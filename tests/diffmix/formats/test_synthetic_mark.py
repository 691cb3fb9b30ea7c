"""Marks of synthetic images, read back by Pillow; the pixels stay."""

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from diffmix.errors import UserError
from diffmix.formats.synthetic_mark import SOFTWARE, marked

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    bands = len(mode)
    pixels = np.random.default_rng(0).integers(0, 255, (31, 47, bands), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "from_real", "kind"),
    [
        (encoded("JPEG", quality=95), True, "compositeWithTrainedAlgorithmicMedia"),
        (encoded("JPEG", quality=80, progressive=True), False, "trainedAlgorithmicMedia"),
        (encoded("PNG"), True, "compositeWithTrainedAlgorithmicMedia"),
        (encoded("WEBP", quality=90), True, "compositeWithTrainedAlgorithmicMedia"),
        (encoded("WEBP", lossless=True), False, "trainedAlgorithmicMedia"),
        (encoded("WEBP", "RGBA", lossless=True), False, "trainedAlgorithmicMedia"),
        (encoded("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\b\0\0"), True, "compositeWith"),
    ],
)
def test_pillow_reads_the_marks_and_the_same_pixels(file, from_real, kind):
    before = Image.open(io.BytesIO(file))
    after = Image.open(io.BytesIO(marked(file, from_real)))
    assert (after.format, after.mode, after.size) == (before.format, before.mode, before.size)
    assert after.tobytes() == before.tobytes()
    assert after.getexif()[0x0131] == SOFTWARE
    xmp = after.info["xmp"]
    xmp = xmp if isinstance(xmp, bytes) else xmp.encode()
    (value,) = [one.get(IPTC) for one in ET.fromstring(xmp).iter() if one.get(IPTC)]
    assert value.startswith(f"http://cv.iptc.org/newscodes/digitalsourcetype/{kind}")


def test_what_is_no_image_is_one_sentence():
    with pytest.raises(UserError, match="mix 3"):
        marked(b"nothing", True, "mix 3")
