"""docs/guarantees.md: its table is made of records, and each of its sentences names a test."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_the_table_is_made_of_records():
    spec = importlib.util.spec_from_file_location("table", Path(__file__).with_name("table.py"))
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    record = {"fault": "SIGKILL", "lost": 0, "repeated": 1, "seconds": 2.5, "test": "t.py::test_x"}
    page = table.with_table(
        "a\n<!-- faults: how -->\nold\n<!-- end of faults -->\nb\n",
        [{**record, "repeated": 9}, record, {**record, "fault": "a hang", "seconds": None}],
    )
    assert page.splitlines() == [
        "a",
        "<!-- faults: how -->",
        "| fault | lost | repeated | seconds | test |",
        "| --- | --- | --- | --- | --- |",
        "| SIGKILL | 0 | 1 | 2.5 | `t.py::test_x` |",
        "| a hang | 0 | 1 | - | `t.py::test_x` |",
        "<!-- end of faults -->",
        "b",
    ]
    assert table.BLOCK.search(PAGE.read_text())


def test_each_sentence_names_a_test_that_exists():
    text = PAGE.read_text().partition("## What is not promised")[0]
    items = re.split(r"\n(?=- )", text.partition("## The promise")[2])
    sentences = [item for item in items if item.startswith("- ")]
    assert len(sentences) > 20
    for sentence in sentences:
        assert REFERENCE.search(sentence), sentence
    for file, name in REFERENCE.findall(PAGE.read_text()):
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
