"""docs/threat_model.md: each of its guards names a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threat_model.md"
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_each_guard_names_a_test_that_exists():
    guarded = PAGE.read_text().partition("## Files of others")[2]
    guarded = guarded.partition("## What is not guarded")[0]
    guards = [item for item in re.split(r"\n(?=- |#)", guarded) if item.startswith("- ")]
    assert len(guards) > 15
    for guard in guards:
        assert REFERENCE.search(guard), guard
    for file, name in REFERENCE.findall(guarded):
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
