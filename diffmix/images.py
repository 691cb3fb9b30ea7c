"""Image files to RGB pixels and back."""

from __future__ import annotations

import importlib
import io
import math
import re
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Num, UInt8
from PIL import ExifTags, Image, PngImagePlugin, features

ImageFormat = Literal["jpeg", "png", "webp"]

# An explicit list, because Pillow also knows formats that start programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jxl"),
)
"""Usual endings of names of image files, in small letters."""
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
}
_PPM = re.compile(rb"P[456]\s+(?:#|\d)")  # a text may begin like the rare P1 to P3
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIC_BRANDS |= {b"mif1", b"msf1"}  # general ones, which a HEIC may have alone


class _Plugin(NamedTuple):
    """What reads a format that Pillow itself cannot read, or not in every build."""

    format: str
    """Pillow's name of the format."""
    module: str
    package: str


_PLUGINS = {
    "AVIF": _Plugin("AVIF", "pillow_avif", "pillow-avif-plugin"),
    "HEIC": _Plugin("HEIF", "pillow_heif", "pillow-heif"),
    "JPEG XL": _Plugin("JXL", "pillow_jxl", "pillow-jxl-plugin"),
}
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

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")
_REDUCED = 1  # the bit of a TIFF page's NewSubfileType that marks a preview
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC = 254, 258, 262  # TIFF tags

# Of a PNG's chunks of text, those that may say how it is turned.
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}
_KEPT_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_MOST_TEXT = 32 * 2**20

# `decode` checks the size before it decodes. Pillow's own limit would overrule a larger
# `max_pixels`.
Image.MAX_IMAGE_PIXELS = None
# Of one text; it is too small for the edit history that image editors keep in XMP.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


class BadImage(ValueError):  # noqa: N818 (it is caught and logged, not an error of the program)
    """The bytes are no usable image. The text is the reason, short enough for a log line."""


def kind(head: bytes) -> str | None:
    """The image format that a file's first bytes (64 are enough) belong to: JPEG, PNG, WebP, BMP,
    TIFF, GIF, AVIF, HEIC, JPEG 2000, JPEG XL or PPM (PGM and PBM too). None: another file.

    Whether the rest of the file is sound, only `decode` knows.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
        # An AVIF may also name the general brands that HEIC has.
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & _HEIC_BRANDS else None
    if _PPM.match(head):
        return "PPM"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), None)


def decode(data: bytes, max_pixels: float = math.inf) -> Image.Image:
    """The image in a file's bytes: upright, mode RGB, 8 bits per channel.

    Reads JPEG, PNG, WebP, BMP, TIFF, GIF, JPEG 2000 and PPM, and AVIF, HEIC and JPEG XL where what
    reads them is installed. Only the first frame or page is read, of a TIFF the first that is no
    preview; `pages` counts them. Rotation in EXIF or XMP is applied, transparency is laid over
    white, and CMYK is converted without its ICC profile. 16-bit gray is divided by 257, so that
    white stays white. 32-bit and float gray is scaled by the first usual range that holds all
    values (see `_to_8_bit`).

    Raises `BadImage` for an empty file, other content, a broken or truncated file, a format whose
    plug-in is missing, and more than `max_pixels` pixels, which are then not decoded. Images of a
    `RealSet` or a mix store need no limit: it was checked when they were added.
    """
    image = _opened(data)
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


def pages(data: bytes) -> int:
    """How many pages or frames a file has, of which `decode` reads one. The pictures that a camera
    puts beside a JPEG do not count. Raises `BadImage` as `decode` does.
    """
    image = _opened(data)
    try:
        return 1 if kind(data[:64]) == "JPEG" else int(getattr(image, "n_frames", 1))
    except Exception as error:
        raise BadImage(f"broken or truncated: {error or type(error).__name__}") from error


def _opened(data: bytes) -> Image.Image:
    """The image with its size, and without its pixels where the format allows that."""
    if not data:
        raise BadImage("empty file")
    found = kind(data[:256])
    formats = (_plugged(found),) if found in _PLUGINS else _FORMATS
    try:
        image = Image.open(
            io.BytesIO(_without_texts(data) if found == "PNG" else data), formats=formats
        )
        while image.format == "TIFF" and _tag(image, _SUBFILE_TYPE) & _REDUCED:
            image.seek(image.tell() + 1)
        return image
    except EOFError:
        raise BadImage("holds only a preview of its image, as camera raw files do") from None
    except Exception as error:  # Pillow's parsers raise errors of many types for broken headers
        if found and found not in ("BMP", "JPEG", "PPM"):  # whose first bytes other files may have
            raise BadImage(f"a {found} file that is broken, or of a kind unknown here") from error
        raise BadImage("not a JPEG, PNG, WebP, BMP, TIFF, GIF, JPEG 2000 or PPM image") from error


@cache
def _plugged(found: str) -> str:
    """Pillow's name of a format, once what reads it is there. Raises `BadImage` where it is not."""
    plugin = _PLUGINS[found]
    if found == "AVIF" and features.check("avif"):
        return plugin.format
    try:
        module = importlib.import_module(plugin.module)
    except ImportError as error:
        raise BadImage(f"{found} needs a plug-in; run pip install {plugin.package}") from error
    if found == "HEIC":
        module.register_heif_opener()
    return plugin.format


def _without_texts(png: bytes) -> bytes:
    """A PNG without its texts and its color profile. Programs that make images keep their settings
    there, and Pillow refuses the whole image where these are large.
    """
    kept, at, start = [], 8, 0
    while at + 12 <= len(png):
        size, name = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        end = at + 12 + size
        if name in _TEXTS:
            turned = size <= _MOST_TEXT and png[at + 8 : at + 40].startswith(_KEPT_TEXTS)
            if not turned:
                kept.append(png[start:at])
                start = end
        at = end
    return b"".join([*kept, png[start:]]) if start else png


def _tag(image: Image.Image, number: int) -> int:
    """The first value of a TIFF's tag; 0 without it."""
    value = image.tag_v2.get(number, 0)  # type: ignore[attr-defined]
    return int(value[0] if isinstance(value, tuple) else value)


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
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    # The usual case: spares a parser run that would find nothing.
    if image.format == "JPEG" and "exif" not in image.info and not xmp:
        return 1
    try:
        exif = image.getexif()
        if ExifTags.Base.Orientation in exif:
            return int(exif[ExifTags.Base.Orientation])
    except Exception:  # a broken EXIF block is no reason to drop the image
        pass
    turned = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(turned[1]) if turned else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        gray, top = np.asarray(image), 65535.0
        if image.format == "PPM":  # Pillow stretches more than 8 bits to 16
            gray = gray.astype(np.uint16)
        clear = np.equal(gray, image.info.get("transparency", np.nan))
        if image.format == "TIFF" and image.mode.startswith("I;16"):
            top = min(top, 2.0 ** (_tag(image, _BITS) or 16) - 1)
            if _tag(image, _PHOTOMETRIC) == 0:  # 0 is white, which Pillow heeds up to 8 bits only
                gray = (top - np.minimum(gray, top)).astype(gray.dtype)
        found = _to_8_bit(gray, top)
        return Image.fromarray(np.where(clear, np.uint8(255), found)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(
    gray: Num[np.ndarray, "height width"], top: float
) -> UInt8[np.ndarray, "height width"]:
    """Gray values of more than 8 bits as uint8.

    White is `top` in uint16. The range of other types is not known: it is the smallest of 0..1
    (floats only), 0..255 and 0..65535 that holds all values, else from the lowest to the highest
    value. Raises `BadImage` for values that are not finite.
    """
    is_float = gray.dtype.kind == "f"
    if is_float and not np.isfinite(gray).all():
        raise BadImage("has pixels that are not finite numbers")
    low, high = float(gray.min()), float(gray.max())
    if gray.dtype.itemsize == 2:
        low, high = 0.0, top
    elif low >= 0 and high <= 65535:
        tops = (1.0, 255.0, 65535.0) if is_float else (255.0, 65535.0)
        low, high = 0.0, next(top for top in tops if high <= top)
    shares = (gray.astype(np.float64) - low) * (255 / ((high - low) or 1.0))
    return np.rint(shares.clip(0, 255)).astype(np.uint8)
