import platform

import timm

from diffmix.versions import versions


def test_versions_are_those_of_the_imported_packages(monkeypatch):
    monkeypatch.setattr("diffmix.versions.PACKAGES", ("timm", "no-such-package"))
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["timm"] == timm.__version__
    assert found["no-such-package"] is None
