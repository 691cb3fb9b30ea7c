from pathlib import Path

from diffmix.config import Config
from diffmix.options import options
from jobs.options_page import page

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_page_is_not_stale():
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run `python -m jobs.options_page > docs/options.md`"
    )


def test_every_option_has_a_row_with_default_bounds_unit_and_source():
    rows = [line for line in page().splitlines() if line.startswith(("| `", "| **`"))]
    assert len(rows) == len(options(Config))
    (row,) = [row for row in rows if "`train.resolution`" in row]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "**`train.resolution`**",
        "`224`",
        "a whole number above 0",
        "pixels",
        "Side of the classifier's input.",
        "[C] 224, 384 or 448",
    ]
