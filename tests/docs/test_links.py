"""Links between pages, and files that pages name, exist. Covers every Markdown page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", "runs", "node_modules", "build", "dist", "shared"}
TOP = (
    ".ci",
    ".github",
    "benchmarks",
    "clusters",
    "diffmix",
    "docs",
    "engine",
    "examples",
    "jobs",
    "tests",
)

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
PATH = re.compile(rf"`((?:{'|'.join(map(re.escape, TOP))})/[\w./-]*)`")


def pages() -> list[Path]:
    found = ROOT.rglob("*.md")
    return sorted(page for page in found if not SKIPPED & set(page.relative_to(ROOT).parts))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    wrong = []
    for target in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    wrong += [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    assert not wrong


def test_every_page_of_the_documentation_is_in_its_index():
    docs = ROOT / "docs"
    linked = {link.partition("#")[0] for link in LINK.findall((docs / "index.md").read_text())}
    there = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    assert there - {"index.md"} == linked


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Fewer FLOPs, by choice\n\n## p, the share\n\n```\n# no heading\n```\n")
    assert anchors(page) == {"fewer-flops-by-choice", "p-the-share"}
