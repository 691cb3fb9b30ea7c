"""Registries: entries found in a package, and those of a user's own."""

import sys
from collections import namedtuple

import pytest

from diffmix.errors import UserError
from diffmix.options.registry import Registry

Entry = namedtuple("Entry", "name")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The registry of a package with three modules, one of them without entries."""
    package = tmp_path / "shelf"
    package.mkdir()
    (package / "__init__.py").write_text("")
    entry = "from collections import namedtuple\nEntry = namedtuple('Entry', 'name')\n"
    (package / "fruit.py").write_text(f"{entry}THINGS = (Entry('apple'), Entry('pear'))\n")
    (package / "roots.py").write_text(f"{entry}THINGS = (Entry('carrot'),)\n")
    (package / "tools.py").write_text("")
    (tmp_path / "mine.py").write_text(f"{entry}PLUM = Entry('plum')\nSTONE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry("shelf", "THINGS", "shop.thing", "thing", lambda entry: hasattr(entry, "name"))
    for name in [name for name in sys.modules if name == "mine" or name.startswith("shelf")]:
        del sys.modules[name]


def test_a_file_in_the_package_is_enough(registry):
    assert registry.names() == ["apple", "pear", "carrot"]
    assert registry.find("pear").name == "pear"


def test_an_entry_of_ones_own_is_named_by_module_and_attribute(registry):
    assert registry.find("mine:PLUM").name == "plum"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aple", r"^--shop\.thing aple is not a thing; did you mean apple\?$"),
        ("xyz", "choose one of apple, pear, carrot, or name your own as module:attribute"),
        ("nowhere:X", r"nowhere:X cannot be imported \(No module named 'nowhere'\)"),
        ("mine:X", r"mine:X cannot be imported \(module 'mine' has no attribute 'X'\)"),
        ("mine:STONE", "mine:STONE is a int, not a thing"),
        (":", "cannot be imported"),
    ],
)
def test_what_is_not_there_is_one_sentence(registry, name, message):
    with pytest.raises(UserError, match=message):
        registry.find(name)


def test_a_name_is_given_once(registry, tmp_path):
    text = (tmp_path / "shelf" / "fruit.py").read_text()
    (tmp_path / "shelf" / "more.py").write_text(text)
    with pytest.raises(ValueError, match="two entries of shelf are called apple"):
        registry.names()
