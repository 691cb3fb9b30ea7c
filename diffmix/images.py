"""Image files to RGB pixels and back."""

from __future__ import annotations

import io
import math
from typing import Literal

import numpy as np
from jaxtyping import Num, UInt8
from PIL import ExifTags, Image

ImageFormat = Literal["jpeg", "png", "webp"]

# An explicit list, because Pillow also knows formats that start programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# EXIF orientation -> what turns the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# `decode` checks the size before it decodes. Pillow's own limit would overrule a larger
# `max_pixels`.
Image.MAX_IMAGE_PIXELS = None


class BadImage(ValueError):  # noqa: N818 (it is caught and logged, not an error of the program)
    """The bytes are no usable image. The text is the reason, short enough for a log line."""


def decode(data: bytes, max_pixels: float = math.inf) -> Image.Image:
    """The image in a file's bytes: upright, mode RGB, 8 bits per channel.

    Reads JPEG, PNG, WebP, BMP, TIFF and GIF, and only the first frame or page. EXIF rotation is
    applied, transparency is laid over white, and CMYK is converted without its ICC profile. 16-bit
    gray is divided by 257, so that white stays white. 32-bit and float gray is scaled by the first
    usual range that holds all values (see `_to_8_bit`).

    Raises `BadImage` for an empty file, other content, a broken or truncated file, and more than
    `max_pixels` pixels, which are then not decoded. Images of a `RealSet` or a mix store need no
    limit: it was checked when they were added.
    """
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # Pillow's parsers raise errors of many types for broken headers
        raise BadImage("not a JPEG, PNG, WebP, BMP, TIFF or GIF image") from error
    if image.width * image.height > max_pixels:
        raise BadImage(f"{image.width} x {image.height} pixels, more than {max_pixels}")
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        rgb = _to_rgb(image)
        return rgb.transpose(turn) if turn is not None else rgb
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise BadImage(f"broken or truncated: {error or type(error).__name__}") from error


def encode(image: Image.Image, format: ImageFormat, quality: int) -> bytes:
    """The bytes of an RGB image's file: the same for the same pixels and library versions.

    `quality` is 1 to 100 for JPEG and WebP. PNG is lossless and ignores it. JPEG keeps color at
    full resolution (4:4:4), because a small patch of color often tells fine-grained classes apart.
    """
    buffer = io.BytesIO()
    if format == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    elif format == "webp":
        image.save(buffer, "WEBP", quality=quality, method=4)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def _orientation(image: Image.Image) -> int:
    # The usual case: spares a parser run that would find nothing.
    if image.format == "JPEG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block is no reason to drop the image
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(gray: Num[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """Gray values of more than 8 bits as uint8.

    uint16 uses its full range. The range of other types is not known: it is the smallest of 0..1
    (floats only), 0..255 and 0..65535 that holds all values, else from the lowest to the highest
    value. Raises `BadImage` for values that are not finite.
    """
    is_float = gray.dtype.kind == "f"
    if is_float and not np.isfinite(gray).all():
        raise BadImage("has pixels that are not finite numbers")
    low, high = float(gray.min()), float(gray.max())
    if gray.dtype.itemsize == 2:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        tops = (1.0, 255.0, 65535.0) if is_float else (255.0, 65535.0)
        low, high = 0.0, next(top for top in tops if high <= top)
    return np.rint((gray.astype(np.float64) - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
