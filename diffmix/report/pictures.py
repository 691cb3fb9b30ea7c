"""Contact sheets: real images and what they were mixed into."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from diffmix.class_names import spoken

MARGIN = 14
"""Pixels around the sheet, and between its rows."""
GAP = 8
"""Pixels between the pictures of a row; after the source it is twice as much."""
SMALLEST_SIDE, LARGEST_SIDE = 96, 224
"""Pictures below the first are enlarged by a whole factor, to at most 128 pixels; those above the
second are reduced to it.
"""

_TITLE, _NAME, _DETAIL = 16, 13, 12  # font sizes in pixels
_INK, _GREY, _PAPER = "#1a1a1a", "#6a6a6a", "white"
# DejaVu, which matplotlib brings along, has Europe's scripts. For others a font of the machine is
# taken, if it has one of these.
_MORE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "Arial Unicode.ttf",
)


class Mixed(NamedTuple):
    """One mix as it is shown."""

    image: Image.Image
    target: str
    """Class name."""
    strength: float
    """In (0, 1]."""
    score: float | None = None
    """The gate's, 0 to 1; None without a gate."""


class Row(NamedTuple):
    """A real image and mixes of it, in the order in which they are shown."""

    source: Image.Image | None
    """None for mixes from noise, which have no source image."""
    source_class: str
    mixes: list[Mixed]
    source_score: float | None = None
    """The gate's for the real image."""


def mix_sheet(rows: list[Row], title: str = "") -> Image.Image:
    """An RGB contact sheet: a line of pictures for each row, the source first, each with its class
    and strength below.

    Pictures keep their proportions, in cells of one size: small ones are enlarged without
    smoothing, so that what a 32 x 32 picture holds can be judged. A class name takes up to two
    lines. Raises `ValueError` where there are no rows.
    """
    if not rows:
        raise ValueError("a sheet needs at least one row")
    with_source = any(row.source is not None for row in rows)
    pictures = [
        image
        for row in rows
        for image in (row.source, *(mix.image for mix in row.mixes))
        if image is not None
    ]
    sizes = [_shown_size(image.size) for image in pictures] or [(SMALLEST_SIDE, SMALLEST_SIDE)]
    side, height = max(max(size) for size in sizes), max(size[1] for size in sizes)
    indent = side + 2 * GAP if with_source else 0
    width = 2 * MARGIN + indent + max(1, max(len(row.mixes) for row in rows)) * (side + GAP) - GAP
    head = _wrap(title, _TITLE, width - 2 * MARGIN, lines=3)
    line = _NAME + 4
    name_lines = max(
        len(_wrap(name, _NAME, side))
        for row in rows
        for name in (spoken(row.source_class), *(_target(row, mix) for mix in row.mixes))
    )
    scored = any(mix.score is not None for row in rows for mix in row.mixes)
    height_of_row = height + GAP // 2 + (name_lines + 1 + scored) * line
    top = MARGIN + len(head) * (_TITLE + 6) + (GAP if head else 0)
    sheet = Image.new("RGB", (width, top + len(rows) * (height_of_row + MARGIN)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(head):
        _write(draw, (MARGIN, MARGIN + number * (_TITLE + 6)), text, _TITLE, _INK)

    def place(
        image: Image.Image, x: int, y: int, name: str, detail: str, score: float | None
    ) -> None:
        shown = _scaled(image)
        sheet.paste(shown, (x + (side - shown.width) // 2, y + (height - shown.height) // 2))
        below = y + height + GAP // 2
        for text in _wrap(name, _NAME, side):
            _write(draw, (x, below), text, _NAME, _INK)
            below += line
        _write(draw, (x, below), detail, _DETAIL, _GREY)
        if score is not None:
            _write(draw, (x, below + line), f"CLIP {score:.2f}", _DETAIL, _GREY)

    for number, row in enumerate(rows):
        y = top + number * (height_of_row + MARGIN)
        if row.source is not None:
            place(row.source, MARGIN, y, spoken(row.source_class), "real image", row.source_score)
        for column, mix in enumerate(row.mixes):
            detail = "from noise" if row.source is None else f"strength {short(mix.strength)}"
            place(
                mix.image,
                MARGIN + indent + column * (side + GAP),
                y,
                _target(row, mix),
                detail,
                mix.score,
            )
    return sheet


def describe(rows: list[Row]) -> str:
    """The sheet in words, for those who cannot see it or whose machine lacks the script of a class
    name.
    """

    def words(row: Row) -> str:
        if row.source is None:
            return ", ".join(_target(row, mix) for mix in row.mixes)
        return f"{spoken(row.source_class)} " + ", ".join(
            f"{_target(row, mix)} at strength {short(mix.strength)}" for mix in row.mixes
        )

    return "; ".join(map(words, rows))


def short(number: float) -> str:
    """A strength with at most two decimals: 0.7 for float32's 0.69999999."""
    return f"{round(number, 2):g}"


def _target(row: Row, mix: Mixed) -> str:
    return spoken(mix.target) if row.source is None else f"→ {spoken(mix.target)}"


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    longest = max(size)
    if longest < SMALLEST_SIDE:
        factor = max(1, 128 // longest)
        return size[0] * factor, size[1] * factor
    shrink = min(1.0, LARGEST_SIDE / longest)
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def _scaled(image: Image.Image) -> Image.Image:
    size = _shown_size(image.size)
    how = Image.Resampling.NEAREST if size[0] > image.width else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, how)


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: str
) -> None:
    draw.text(place, text, font=_font_for(text, size), fill=color)


def _wrap(text: str, size: int, width: int, lines: int = 2) -> list[str]:
    """The text in at most `lines` lines of `width` pixels, broken between words, or anywhere in
    words that are too long.
    """
    font = _font_for(text, size)
    found: list[str] = []
    rest = text.strip()
    while rest:
        end = next((n for n in range(len(rest), 1, -1) if font.getlength(rest[:n]) <= width), 1)
        if end < len(rest) and len(found) == lines - 1:
            while end > 1 and font.getlength(f"{rest[:end].rstrip()}…") > width:
                end -= 1
            return [*found, f"{rest[:end].rstrip()}…"]
        if end < len(rest) and " " in rest[1 : end + 1]:
            end = rest.rindex(" ", 1, end + 1)
        found.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return found


@lru_cache(maxsize=1024)
def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The first font that has all of the text's characters, else the usual one, which shows boxes
    for the others.
    """
    import matplotlib

    usual = ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )
    if _has(usual, text):
        return usual
    fonts = (font for name in _MORE_FONTS if (font := _machine_font(name, size)))
    return next((font for font in fonts if _has(font, text)), usual)


@lru_cache(maxsize=64)
def _machine_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(font.getmask("\U0010ffff"))
    return all(char.isspace() or bytes(font.getmask(char)) != missing for char in set(text))
