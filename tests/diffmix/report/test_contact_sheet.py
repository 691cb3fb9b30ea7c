"""Contact sheets: their size, what is where, and captions in any script."""

import numpy as np
import pytest
from PIL import Image

from diffmix.report.contact_sheet import GAP, MARGIN, Mixed, Row, describe, mix_sheet

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(color, size=(32, 32)) -> Image.Image:
    return Image.new("RGB", size, color)


def test_small_images_are_enlarged_by_a_whole_factor_and_stand_where_they_belong():
    left = plain(RED)
    left.putpixel((31, 31), GREEN)
    mixes = [Mixed(plain(GREEN), "two", 0.5), Mixed(plain(BLUE), "three", 0.7)]
    sheet = mix_sheet([Row(left, "one", mixes)])
    side = 128
    assert sheet.width == 2 * MARGIN + side + 2 * GAP + 2 * side + GAP
    assert sheet.getpixel((MARGIN, MARGIN)) == RED
    corner = np.asarray(sheet)[MARGIN : MARGIN + side, MARGIN : MARGIN + side]
    assert (corner[-4:, -4:] == GREEN).all(), "one pixel is 4 x 4 now, without smoothing"
    assert (corner[:-4] == RED).all()
    second = MARGIN + side + 2 * GAP
    assert sheet.getpixel((second, MARGIN)) == GREEN
    assert sheet.getpixel((second + side + GAP, MARGIN)) == BLUE
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    captions = np.asarray(sheet)[MARGIN + side :, second : second + side]
    assert captions.min() < 100, "there is text below a mix"


def test_large_images_are_reduced_and_keep_their_proportions():
    source, mix = plain(RED, (600, 300)), plain(BLUE, (600, 300))
    sheet = mix_sheet([Row(source, "one", [Mixed(mix, "two", 0.7)])])
    assert sheet.width == 2 * MARGIN + 2 * 224 + 2 * GAP
    assert sheet.getpixel((MARGIN + 223, MARGIN + 111)) == RED
    assert sheet.getpixel((MARGIN + 100, MARGIN + 114)) == (255, 255, 255)


def test_rows_from_noise_have_no_place_for_a_source():
    rows = [
        Row(None, "one", [Mixed(plain(RED), "one", 1.0)]),
        Row(None, "two", [Mixed(plain(BLUE), "two", 1.0)] * 3),
    ]
    sheet = mix_sheet(rows)
    assert sheet.width == 2 * MARGIN + 3 * 128 + 2 * GAP
    assert sheet.getpixel((MARGIN, MARGIN)) == RED
    assert describe(rows) == "one; two, two, two"


def test_long_names_take_a_second_line_and_a_title_makes_room():
    def row(name: str) -> Row:
        return Row(plain(RED), "one", [Mixed(plain(BLUE), name, 0.7)])

    short = mix_sheet([row("two")])
    long = mix_sheet([row("two of very many classes")])
    longer = mix_sheet([row("two of very many classes " * 9)])
    assert short.height < long.height == longer.height
    assert mix_sheet([row("two")], "What it shows").height > short.height


@pytest.mark.parametrize(
    "name", ["Füchslein", "狐", "Füchslein 狐狸精狐狸精狐狸精狐狸精狐狸精狐狸精", "x" * 200, "a b"]
)
def test_names_in_any_script_and_of_any_length_can_be_written(name):
    sheet = mix_sheet([Row(plain(RED), name, [Mixed(plain(BLUE), name, 0.7)])], title=name)
    assert sheet.width == 2 * MARGIN + 2 * 128 + 2 * GAP


def test_umlauts_are_not_the_box_of_a_missing_character():
    sheets = [mix_sheet([Row(plain(RED), name, [])]) for name in ("ü", "ö", "\U0010ffff")]
    assert len({sheet.tobytes() for sheet in sheets}) == 3


def test_the_same_rows_give_the_same_sheet_and_words():
    rows = [Row(plain(RED), "001.Red_Fox", [Mixed(plain(BLUE), "lynx", float(np.float32(0.7)))])]
    assert mix_sheet(rows).tobytes() == mix_sheet(rows).tobytes()
    assert describe(rows) == "Red Fox → lynx at strength 0.7"


def test_no_rows_is_a_mistake():
    with pytest.raises(ValueError, match="row"):
        mix_sheet([])
