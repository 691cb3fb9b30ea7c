"""No version with a known hole is allowed or pinned: `SECURITY.md` says which version mends it."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)


def test_the_table_is_read():
    assert {"torch", "diffusers", "ray"} <= {name for name, _ in ROWS}


@pytest.mark.parametrize(("name", "mended"), ROWS)
def test_no_older_version_is_allowed_or_pinned(name, mended):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = {found.name: found.specifier for found in map(Requirement, project["dependencies"])}
    (least,) = (one.version for one in allowed[name] if one.operator == ">=")
    assert Version(least) >= Version(mended)
    pinned = re.search(rf"^{name}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert Version(pinned[1]) >= Version(mended)


def test_what_is_not_mended_is_not_used():
    """torch's loaders of exported and scripted programs."""
    for top in ("diffmix", "engine", "jobs"):
        for path in (ROOT / top).rglob("*.py"):
            text = path.read_text()
            for call in ("torch.jit.", "torch.export", "load_pt2"):
                assert call not in text, f"{path.relative_to(ROOT)}: {call}"
