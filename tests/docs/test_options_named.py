"""Options that the pages name exist. Covers every Markdown page."""

import re
from pathlib import Path

import pytest

from diffmix.config import Config
from diffmix.options import options

ROOT = Path(__file__).parents[2]
KNOWN = set(options(Config))
GROUPS = "|".join(sorted({name.partition(".")[0] for name in KNOWN if "." in name}))
OPTION = re.compile(rf"--((?:{GROUPS})\.\w+)|`((?:{GROUPS})\.\w+)(?: [^`]*)?`")
FILES = (".json", ".parquet", ".safetensors", ".txt", ".yaml")
"""Endings of files that look like an option."""


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.stem
)
def test_options_that_a_page_names_exist(page):
    found = {long or short for long, short in OPTION.findall(page.read_text(encoding="utf-8"))}
    assert {name for name in found if not name.endswith(FILES)} <= KNOWN
