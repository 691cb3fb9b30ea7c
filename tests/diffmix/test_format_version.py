"""Which format versions are read, and how the others are refused."""

import pytest

from diffmix import format_version
from diffmix.errors import UserError
from diffmix.format_version import FORMAT_VERSION, with_version, without_version


def test_what_is_written_is_read():
    written = with_version({"a": 1})
    assert written == {"format_version": FORMAT_VERSION, "a": 1}
    assert without_version(written, "plan.json") == {"a": 1}


def test_a_file_without_a_version_is_version_1():
    assert without_version({"a": 1}, "plan.json") == {"a": 1}


def test_a_newer_file_is_refused_by_name():
    newer = {"format_version": FORMAT_VERSION + 1}
    with pytest.raises(UserError, match=r"^out/plan\.json has format version \d+, .* update"):
        without_version(newer, "out/plan.json")


def test_a_file_that_is_too_old_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(format_version, "OLDEST_READ", 2)
    with pytest.raises(UserError, match=r"^plan\.json has format version 1, but .* 2 to 2; use an"):
        without_version({}, "plan.json")


@pytest.mark.parametrize("version", ["two", None, 0, 1.5])
def test_what_is_no_version_is_refused(version):
    with pytest.raises(UserError, match="not a version"):
        without_version({"format_version": version}, "plan.json")
