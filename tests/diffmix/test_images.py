"""Every kind of image file, against pixel values computed without Pillow's conversions."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from diffmix.config import DataConfig
from diffmix.images import BadImage, _plugged, decode, encode, kind, pages

# Height 6, width 5: a swapped axis is noticed.
RGB = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3) * 2
GRAY = np.arange(30, dtype=np.uint8).reshape(6, 5) * 8


def file_of(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def as_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[:, :, None], 3, axis=2)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
        ("PPM", {}),
    ],
)
def test_lossless_rgb(format, options):
    assert (pixels(file_of(Image.fromarray(RGB), format, **options)) == RGB).all()


def test_jpeg():
    flat = np.full((16, 16, 3), (200, 40, 90), dtype=np.uint8)
    assert abs(pixels(file_of(Image.fromarray(flat), "JPEG", quality=95)) - flat).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "JPEG2000", "PPM"])
def test_gray(format):
    assert (pixels(file_of(Image.fromarray(GRAY), format)) == as_rgb(GRAY)).all()


@pytest.mark.parametrize("format", ["PNG", "JPEG2000", "PPM"])
def test_dark_16_bit_gray_of_each_format(format):
    """All values are below 256, as if they had 8 bits."""
    gray = GRAY.astype(np.uint16)
    data = b"P5 %d %d 65535\n" % gray.shape[::-1] + gray.astype(">u2").tobytes()
    if format != "PPM":
        data = file_of(Image.fromarray(gray), format)
    assert (pixels(data) == as_rgb(np.rint(gray / 257))).all()


def test_ppm_with_comments_and_as_text():
    assert (pixels(b"P6 # by hand\n1 1\n255\n\x01\x02\x03") == [[[1, 2, 3]]]).all()
    assert (pixels(b"P3\n1 1 255\n1 2 3\n") == [[[1, 2, 3]]]).all()


def test_one_bit():
    bits = GRAY > 100
    assert (pixels(file_of(Image.fromarray(bits), "PNG")) == as_rgb(bits * 255)).all()


def test_palette_and_first_gif_frame():
    colors = np.array([[10, 20, 30], [250, 5, 90], [0, 255, 0]], dtype=np.uint8)
    index = (np.arange(30, dtype=np.uint8) % 3).reshape(6, 5)
    image = Image.fromarray(index).convert("P")
    image.putdata(index.ravel().tolist())
    image.putpalette(colors.tobytes())
    second = Image.new("P", image.size, 2)
    second.putpalette(colors.tobytes())
    assert (pixels(file_of(image, "PNG")) == colors[index]).all()
    frames = file_of(image, "GIF", save_all=True, append_images=[second])
    assert (pixels(frames) == colors[index]).all()


def test_palette_transparency_is_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putpixel((0, 0), 0)
    result = pixels(file_of(image, "PNG", transparency=0))
    assert result[0, 0].tolist() == [255, 255, 255]
    assert result[1, 1].tolist() == [50, 60, 70]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_over_white(format):
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[..., 0], rgba[..., 3] = 100, 128
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    alpha = 128 / 255
    expected = np.array([100, 0, 0]) * alpha + 255 * (1 - alpha)
    assert abs(pixels(file_of(Image.fromarray(rgba), format, **options)) - expected).max() <= 1


def test_gray_with_alpha():
    result = pixels(file_of(Image.fromarray(np.full((3, 3, 2), (40, 0), dtype=np.uint8)), "PNG"))
    assert (result == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(format):
    gray = np.linspace(0, 65535, 30).round().astype(np.uint16).reshape(6, 5)
    assert (pixels(file_of(Image.fromarray(gray), format)) == as_rgb(np.rint(gray / 257))).all()


def test_dark_16_bit_gray_stays_dark():
    gray = np.full((3, 3), 514, dtype=np.uint16)
    assert (pixels(file_of(Image.fromarray(gray), "PNG")) == 2).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([-100, 20, 100], [0, 153, 255]),
        ([0, 20_000, 100_000], [0, 51, 255]),
    ],
)
def test_32_bit_integers(values, expected):
    data = file_of(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF")
    assert pixels(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0.5, 1], [0, 128, 255]), ([0, 20.2, 200], [0, 20, 200]), ([-1, 0.2, 1], [0, 153, 255])],
)
def test_float(values, expected):
    data = file_of(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert pixels(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [0.0, -5.0, 1e6])
def test_one_value_everywhere(value):
    data = file_of(Image.fromarray(np.full((2, 2), value, dtype=np.float32)), "TIFF")
    assert len(np.unique(pixels(data))) == 1


def test_float_that_is_not_a_number():
    with pytest.raises(BadImage, match="finite"):
        decode(file_of(Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)), "TIFF"))


# No cyan, all magenta and yellow.
RED_IN_CMYK = np.full((16, 16, 4), (0, 255, 255, 0), dtype=np.uint8)


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk(format):
    result = pixels(file_of(Image.fromarray(RED_IN_CMYK, "CMYK"), format))
    assert abs(result - (255, 0, 0)).max() <= 3


def test_inverted_cmyk_of_adobe():
    data = file_of(Image.fromarray(RED_IN_CMYK, "CMYK"), "JPEG")
    assert b"Adobe" in data, "Pillow writes the marker: the stored values are inverted"
    assert abs(pixels(data) - (255, 0, 0)).max() <= 3


# EXIF orientation -> what a viewer shows of the stored rows and columns.
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = file_of(Image.fromarray(RGB), format, exif=exif, **options)
    assert (pixels(data) == TURNED[orientation](RGB)).all()


def test_exif_orientation_of_16_bit_gray():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG", exif=exif)
    assert (pixels(data) == TURNED[6](as_rgb(GRAY))).all()


XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description %s
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/">%s</rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("orientation", TURNED)
def test_orientation_that_stands_in_xmp_alone(orientation, format):
    xmp = XMP % ("", f"<tiff:Orientation>{orientation}</tiff:Orientation>")
    options = {"xmp": xmp.encode()}
    if format == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp)
        options = {"pnginfo": texts}
    if format == "TIFF":
        options = {"tiffinfo": {700: xmp.encode()}}
    wide = np.kron(RGB[:, :, ::-1] // 60 * 60, np.ones((8, 8, 1), dtype=np.uint8))
    data = file_of(Image.fromarray(wide), format, **options)
    theirs = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert (pixels(data) == theirs).all()
    assert abs(pixels(data) - TURNED[orientation](wide)).mean() < 12
    assert theirs.shape == TURNED[orientation](wide).shape


@pytest.mark.parametrize("spelling", ['tiff:Orientation="6"', "tiff:Orientation = '6'"])
def test_orientation_as_an_attribute_in_xmp(spelling):
    data = file_of(Image.fromarray(RGB), "WEBP", lossless=True, xmp=(XMP % (spelling, "")).encode())
    assert (pixels(data) == TURNED[6](RGB)).all()


def test_exif_wins_over_xmp():
    exif = Image.Exif()
    exif[0x0112] = 3
    xmp = (XMP % ('tiff:Orientation="6"', "")).encode()
    data = file_of(Image.fromarray(RGB), "WEBP", lossless=True, exif=exif, xmp=xmp)
    assert (pixels(data) == TURNED[3](RGB)).all()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_large_texts_in_a_png(zipped, after):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=zipped)
    texts.add_itxt("prompt", "y" * 3_000_000, zip=zipped)
    data = file_of(Image.fromarray(RGB), "PNG", pnginfo=texts)
    if after:  # the texts after the pixels, where other programs put them
        plain, end = file_of(Image.fromarray(RGB), "PNG"), len(b"....IEND....")
        data = plain[:-end] + data[33 : data.index(b"IDAT") - 4] + plain[-end:]
    assert (pixels(data) == RGB).all()


def test_a_large_history_in_a_pngs_xmp_and_its_color_profile():
    texts = PngImagePlugin.PngInfo()
    history = "<history>" + "x" * 2_000_000 + "</history>"
    texts.add_itxt("XML:com.adobe.xmp", XMP % ('tiff:Orientation="6"', history), zip=True)
    data = file_of(Image.fromarray(RGB), "PNG", pnginfo=texts, icc_profile=bytes(3_000_000))
    assert (pixels(data) == TURNED[6](RGB)).all()


def test_broken_exif_does_not_cost_the_image():
    data = file_of(Image.fromarray(RGB), "PNG", exif=b"Exif\x00\x00nonsense that is no TIFF header")
    assert (pixels(data) == RGB).all()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + bytes(4)


def png(depth: int, color: int, row: bytes, **chunks: bytes) -> bytes:
    """A PNG of 2 x 1 pixels, written by hand."""
    found = [(b"IHDR", struct.pack(">2I5B", 2, 1, depth, color, 0, 0, 0))]
    found += [(name.encode(), content) for name, content in chunks.items()]
    found += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    summed = [
        chunk(name, content)[:-4] + struct.pack(">I", zlib.crc32(name + content))
        for name, content in found
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(summed)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(16, 2, struct.pack(">6H", 65535, 0, 0, 0, 32896, 0)), [[255, 0, 0], [0, 128, 0]]),
        (png(16, 4, struct.pack(">4H", 9, 0, 40092, 65535)), [[255] * 3, [156] * 3]),
        (
            png(16, 6, struct.pack(">8H", 9, 9, 9, 0, 65535, 0, 0, 32896)),
            [[255] * 3, [255, 127, 127]],
        ),
        (
            png(8, 3, bytes([1, 0]), PLTE=bytes([100, 0, 0, 10, 20, 30]), tRNS=bytes([128, 0])),
            [[255] * 3, [177, 127, 127]],
        ),
        (png(1, 3, b"\x40", PLTE=bytes([1, 2, 3, 4, 5, 6])), [[1, 2, 3], [4, 5, 6]]),
        (png(2, 0, b"\x60"), [[85] * 3, [170] * 3]),
    ],
    ids=["color", "gray, alpha", "color, alpha", "palette, alpha", "1-bit palette", "2-bit gray"],
)
def test_pngs_of_any_depth(data, expected):
    """Half transparent over white: 255 + (value - 255) * 128 / 255."""
    assert pixels(data)[0].tolist() == expected


def test_a_phones_jpeg_with_a_second_picture():
    flat, other = np.full((16, 16, 3), 200, np.uint8), np.full((16, 16, 3), 9, np.uint8)
    options = {"save_all": True, "append_images": [Image.fromarray(other)]}
    data = file_of(Image.fromarray(flat), "MPO", **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert (kind(data[:64]), pages(data)) == ("JPEG", 1)
    assert abs(pixels(data) - flat).max() <= 3


def test_transparent_gray_of_16_bits_is_white():
    gray = np.array([[514, 40_000]], dtype=np.uint16)
    data = file_of(Image.fromarray(gray), "PNG")
    transparent = chunk(b"tRNS", struct.pack(">H", 514))
    transparent = transparent[:-4] + struct.pack(">I", zlib.crc32(transparent[4:-4]))
    at = data.index(b"IDAT") - 4
    assert pixels(data[:at] + transparent + data[at:])[0, :, 0].tolist() == [255, 156]


def tiff(bits: list[int], photometric: int, content: bytes, *pages: int, **tags: int) -> bytes:
    """A TIFF of 2 x 1 pixels, written by hand. `pages` are the subfile types of its pages, which
    all have the same content.
    """
    data, offset = b"II*\0" + struct.pack("<I", 8 + len(content)) + content, 8 + len(content)
    for number, subfile in enumerate(pages or (0,)):
        shorts = {254: subfile, 256: 2, 257: 1, 259: 1, 262: photometric, 273: 8, 277: len(bits)}
        shorts |= {278: 1, 279: len(content), **{int(name[1:]): tags[name] for name in tags}}
        entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in shorts.items()}
        after = offset + 2 + 12 * (len(entries) + 1) + 4
        where = struct.pack("<I", after) if len(bits) > 2 else struct.pack("<2H", *bits, 0)[:4]
        entries[258] = struct.pack("<HHI", 258, 3, len(bits)) + where
        data += struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
        offset = after + (2 * len(bits) if len(bits) > 2 else 0)
        data += struct.pack("<I", offset if number + 1 < len(pages) else 0)
        data += struct.pack(f"<{len(bits)}H", *bits) if len(bits) > 2 else b""
    return data


def test_a_tiff_in_which_0_is_white():
    assert pixels(tiff([16], 0, struct.pack("<2H", 0, 65535)))[0, :, 0].tolist() == [255, 0]
    assert pixels(tiff([8], 0, bytes([0, 255])))[0, :, 0].tolist() == [255, 0]


def test_a_tiff_of_12_bits_uses_their_range():
    data = tiff([12], 1, bytes([0xFF, 0xF8, 0x00]))  # 4095 and 2048
    assert pixels(data)[0, :, 0].tolist() == [255, 128]


def test_color_of_16_bits_and_cmyk_of_16_bits():
    red = tiff([16] * 3, 2, struct.pack("<6H", 65535, 0, 0, 0, 32896, 0))
    assert pixels(red)[0].tolist() == [[255, 0, 0], [0, 128, 0]]
    red = tiff([16] * 4, 5, struct.pack("<8H", 0, 65535, 65535, 0, 0, 0, 0, 65535))
    assert pixels(red)[0].tolist() == [[255, 0, 0], [0, 0, 0]]


def test_of_several_pages_the_first_is_read_that_is_no_preview():
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())
    for format in ("TIFF", "GIF", "WEBP", "PNG", "AVIF"):
        data = file_of(first, format, save_all=True, append_images=[second])
        assert pages(data) == 2
        assert abs(pixels(data) - RGB).mean() < 8
        assert pages(file_of(first, format)) == 1
    assert pages(file_of(first, "JPEG")) == 1
    data = tiff([8], 1, bytes([9, 200]), 1, 0)
    assert pages(data) == 2
    assert pixels(data)[0, :, 0].tolist() == [9, 200]
    with pytest.raises(BadImage, match="holds only a preview"):
        decode(tiff([8], 1, bytes([9, 200]), 1))


def test_a_tiff_that_pillow_cannot_read_is_not_called_another_file():
    with pytest.raises(BadImage, match="a TIFF file that is broken, or of a kind unknown here"):
        decode(tiff([32] * 3, 2, struct.pack("<6f", 1, 0, 0, 0, 1, 0), t339=3))


def plugged(format: str) -> None:
    """Skip the test where what writes and reads a format is missing."""
    found = {"HEIF": "HEIC", "JXL": "JPEG XL"}.get(format, format)
    try:
        _plugged(found)
    except BadImage as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("format", ["AVIF", "HEIF", "JXL"])
def test_newer_formats(format):
    plugged(format)
    flat = np.kron(RGB // 90 * 90, np.ones((16, 16, 1), dtype=np.uint8))
    data = file_of(Image.fromarray(flat), format, quality=95)
    assert kind(data[:64]) == {"HEIF": "HEIC", "JXL": "JPEG XL"}.get(format, format)
    assert abs(pixels(data) - flat).mean() < 4
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(Image.fromarray(flat), format, quality=95, exif=exif.tobytes())
    assert abs(pixels(data) - TURNED[6](flat)).mean() < 4
    with pytest.raises(BadImage, match="broken"):
        decode(data[:40])
    with pytest.raises(BadImage, match="more than 10"):
        decode(data, max_pixels=10)


@pytest.mark.parametrize(
    ("head", "name", "module"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC", "pillow_heif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC", "pillow_heif"),
        (b"\xff\x0a\x07\x07", "JPEG XL", "pillow_jxl"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avif", "AVIF", "pillow_avif"),
    ],
)
def test_a_format_whose_plug_in_is_missing(monkeypatch, head, name, module):
    _plugged.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("diffmix.images.features.check", lambda feature: False)
    with pytest.raises(BadImage, match=f"{name} needs a plug-in; run pip install pillow-"):
        decode(head + bytes(64))
    _plugged.cache_clear()


def test_kinds_by_the_first_bytes():
    image = Image.fromarray(RGB)
    for format in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "AVIF"):
        assert kind(file_of(image, format)[:64]) == format
    assert kind(file_of(image, "WEBP")[:64]) == "WebP"
    for options in ({}, {"no_jp2": True}):
        assert kind(file_of(image, "JPEG2000", **options)[:64]) == "JPEG 2000"
    for mode in ("RGB", "L", "1"):
        assert kind(file_of(image.convert(mode), "PPM")[:64]) == "PPM"
    assert kind(b"P5 is the fifth part") is None
    assert kind(b"\0\0\0\x18ftypmp42\0\0\0\0isommp42") is None
    assert kind(b"") is None
    assert kind(b"text") is None


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM"])
def test_truncated(format):
    data = file_of(Image.fromarray(NOISE), format)
    with pytest.raises(BadImage):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        b"\xff\xd8\xff\xe0 no JPEG",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_not_an_image(data):
    with pytest.raises(BadImage, match="empty file" if not data else "not a JPEG"):
        decode(data)


def test_corrupt_pixels():
    data = bytearray(file_of(Image.fromarray(NOISE), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadImage):
        decode(bytes(data))


def test_bomb_is_refused_before_its_pixels_are_decoded(monkeypatch):
    bomb = file_of(Image.new("1", (11_000, 11_000)), "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadImage, match=r"11000 x 11000 pixels, more than 100000000"):
        decode(bomb, DataConfig().max_pixels)


def test_the_pixel_limit_is_the_callers():
    data = file_of(Image.fromarray(RGB), "PNG")
    assert decode(data, max_pixels=30).size == (5, 6)
    with pytest.raises(BadImage, match="more than 29"):
        decode(data, max_pixels=29)


def test_encode_png_is_lossless_and_repeatable():
    image = Image.fromarray(NOISE)
    data = encode(image, "png", 50)
    assert (pixels(data) == NOISE).all()
    assert encode(image, "png", 95) == data


@pytest.mark.parametrize(("format", "magic"), [("jpeg", b"\xff\xd8"), ("webp", b"RIFF")])
def test_encode_lossy(format, magic):
    image = Image.fromarray(np.kron(RGB, np.ones((8, 8, 1), dtype=np.uint8)))
    fine, coarse = encode(image, format, 95), encode(image, format, 20)
    assert fine == encode(image, format, 95)
    assert fine.startswith(magic)
    assert len(coarse) < len(fine)
    assert abs(pixels(fine) - np.asarray(image)).mean() < 4


def test_jpeg_keeps_color_at_full_resolution():
    stripes = np.zeros((16, 16, 3), dtype=np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255  # red and blue columns, one pixel wide
    assert abs(pixels(encode(Image.fromarray(stripes), "jpeg", 95)) - stripes).max() < 40
