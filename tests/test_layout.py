"""The house's rules that no linter checks: tests mirror sources, files and folders stay small."""

import ast
import fnmatch
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [
    path.relative_to(ROOT)
    for top in ("diffmix", "engine", "jobs")
    for path in sorted((ROOT / top).rglob("*.py"))
]


def covered_in_docstrings() -> set[str]:
    """The paths and patterns of sources that the docstrings of test modules name."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found |= set(re.findall(r"`((?:diffmix|engine|jobs)/[\w/*]+\.py)`", text))
    return found


def test_each_source_has_a_test_of_its_name_or_is_named_by_one():
    named = covered_in_docstrings()
    missing = []
    for source in SOURCES:
        own = ROOT / "tests" / source.parent / f"test_{source.name}"
        by_name = any(fnmatch.fnmatch(str(source), pattern) for pattern in named)
        if source.name != "__init__.py" and not own.exists() and not by_name:
            missing.append(str(source))
    assert missing == []


def test_what_docstrings_name_exists():
    paths = [str(source) for source in SOURCES]
    assert [name for name in covered_in_docstrings() if not fnmatch.filter(paths, name)] == []


def test_each_folder_is_a_package():
    """A folder without `__init__.py` would be left out of the wheel and of the import rules."""
    folders = {(ROOT / source).parent for source in SOURCES}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_source_has_more_than_350_lines():
    lines = {str(source): len((ROOT / source).read_text().splitlines()) for source in SOURCES}
    assert {name: count for name, count in lines.items() if count > 350} == {}


def test_no_folder_has_more_than_12_files():
    counts = Counter(str(source.parent) for source in SOURCES)
    assert {folder: count for folder, count in counts.items() if count > 12} == {}


def test_no_file_imports_itself_in_a_circle():
    import grimp

    graph = grimp.build_graph("diffmix", "engine", "jobs", include_external_packages=False)
    # A package's __init__ hands on names of its files, which is no circle of files.
    sources = [source for source in SOURCES if source.name != "__init__.py"]
    files = {str(source.with_suffix("")).replace("/", ".") for source in sources}
    imports = {}
    for name in files:
        imports[name] = graph.find_modules_directly_imported_by(name) & files
    while free := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in free:
            del imports[name]
    assert sorted(imports) == []
