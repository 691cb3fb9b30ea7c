"""Contact sheets: real images and their mixes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from diffmix.datasets.class_names import spoken

MARGIN = 14
"""Pixels around the sheet, and between its rows."""
GAP = 8
"""Pixels between the images of a row; twice as many after the source."""
SMALLEST_SIDE, LARGEST_SIDE = 96, 224
"""Images with a longest side below the first are enlarged by a whole factor, to at most 128 pixels.
Those above the second are reduced to it.
"""

_TITLE, _NAME, _DETAIL = 16, 13, 12  # font sizes in pixels
_INK, _GRAY, _PAPER = "#1a1a1a", "#6a6a6a", "white"
# DejaVu, which comes with matplotlib, has Europe's scripts. For other scripts one of these fonts is
# used, if the machine has it.
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
    """One mix on the sheet."""

    image: Image.Image
    target: str
    """Class name."""
    strength: float
    """In (0, 1]."""
    score: float | None = None
    """The gate's score in [0, 1]; None without a gate."""


class Row(NamedTuple):
    """A real image and its mixes, from left to right."""

    source: Image.Image | None
    """None for mixes from noise."""
    source_class: str
    mixes: list[Mixed]
    source_score: float | None = None
    """The gate's score of the real image."""


def mix_sheet(rows: list[Row], title: str = "") -> Image.Image:
    """An RGB contact sheet. Each row shows a source and its mixes, with class and strength below.

    Images keep their proportions, in cells of one size. Small ones are enlarged without smoothing,
    so that one can judge every pixel of a 32 x 32 image. A class name takes up to two lines. Raises
    `ValueError` without rows.
    """
    if not rows:
        raise ValueError("a sheet needs at least one row")
    with_source = any(row.source is not None for row in rows)
    images: list[Image.Image] = []
    names: list[str] = []
    for row in rows:
        images += [row.source] if row.source is not None else []
        images += [mix.image for mix in row.mixes]
        names += [spoken(row.source_class), *(_target(row, mix) for mix in row.mixes)]
    sizes = [_shown_size(image.size) for image in images] or [(SMALLEST_SIDE, SMALLEST_SIDE)]
    side, height = max(max(size) for size in sizes), max(size[1] for size in sizes)
    indent = side + 2 * GAP if with_source else 0
    columns = max(1, max(len(row.mixes) for row in rows))
    width = 2 * MARGIN + indent + columns * (side + GAP) - GAP
    head = _wrap(title, _TITLE, width - 2 * MARGIN, lines=3)
    line = _NAME + 4
    name_lines = max(len(_wrap(name, _NAME, side)) for name in names)
    scored = any(mix.score is not None for row in rows for mix in row.mixes)
    height_of_row = height + GAP // 2 + (name_lines + 1 + scored) * line
    top = MARGIN + len(head) * (_TITLE + 6) + (GAP if head else 0)
    sheet = Image.new("RGB", (width, top + len(rows) * (height_of_row + MARGIN)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(head):
        _write(draw, (MARGIN, MARGIN + number * (_TITLE + 6)), text, _TITLE, _INK)

    def paste_cell(
        image: Image.Image, x: int, y: int, name: str, detail: str, score: float | None
    ) -> None:
        shown = _scaled(image)
        sheet.paste(shown, (x + (side - shown.width) // 2, y + (height - shown.height) // 2))
        below = y + height + GAP // 2
        for text in _wrap(name, _NAME, side):
            _write(draw, (x, below), text, _NAME, _INK)
            below += line
        _write(draw, (x, below), detail, _DETAIL, _GRAY)
        if score is not None:
            _write(draw, (x, below + line), f"CLIP {score:.2f}", _DETAIL, _GRAY)

    for number, row in enumerate(rows):
        y = top + number * (height_of_row + MARGIN)
        if row.source is not None:
            paste_cell(
                row.source, MARGIN, y, spoken(row.source_class), "real image", row.source_score
            )
        for column, mix in enumerate(row.mixes):
            x = MARGIN + indent + column * (side + GAP)
            detail = "from noise" if row.source is None else f"strength {short(mix.strength)}"
            paste_cell(mix.image, x, y, _target(row, mix), detail, mix.score)
    return sheet


def describe(rows: list[Row]) -> str:
    """The sheet in words, for people who cannot see it or lack a font for the class names."""

    def words(row: Row) -> str:
        if row.source is None:
            return ", ".join(_target(row, mix) for mix in row.mixes)
        mixes = [f"{_target(row, mix)} at strength {short(mix.strength)}" for mix in row.mixes]
        return f"{spoken(row.source_class)} {', '.join(mixes)}"

    return "; ".join(map(words, rows))


def short(number: float) -> str:
    """A strength with at most two decimals: 0.7 for the float32 0.69999999."""
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
    """The text in at most `lines` lines of `width` pixels.

    Lines break between words, or within words that are too long. Text that does not fit ends in an
    ellipsis.
    """
    font = _font_for(text, size)
    found: list[str] = []
    rest = " ".join(text.split())  # a name may hold line breaks
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
    """The first font with all characters of the text, else DejaVu, which shows boxes for some."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    usual = ImageFont.truetype(str(path), size)
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
