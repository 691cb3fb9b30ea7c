"""Every kind of image file, against pixel values computed without Pillow's conversions."""

import io

import numpy as np
import pytest
from PIL import Image

from diffmix.config import DataConfig
from diffmix.images import BadImage, decode, encode

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
    ("format", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_rgb(format, options):
    assert (pixels(file_of(Image.fromarray(RGB), format, **options)) == RGB).all()


def test_jpeg():
    flat = np.full((16, 16, 3), (200, 40, 90), dtype=np.uint8)
    assert abs(pixels(file_of(Image.fromarray(flat), "JPEG", quality=95)) - flat).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_gray(format):
    assert (pixels(file_of(Image.fromarray(GRAY), format)) == as_rgb(GRAY)).all()


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


def test_broken_exif_does_not_cost_the_image():
    data = file_of(Image.fromarray(RGB), "PNG", exif=b"Exif\x00\x00nonsense that is no TIFF header")
    assert (pixels(data) == RGB).all()


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
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
