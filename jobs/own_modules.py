"""Modules of the user's own that hide ours or a library's. Uses the standard library alone, so that
it runs before anything else is imported.

The console script does not look for modules in the current folder. `python -m jobs.run` and
`PYTHONPATH=.` look there first.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent  # the checkout, or site-packages
_OURS = {"diffmix", "engine", "jobs"}
_NOBODYS = {"benchmarks", "conftest", "docs", "examples", "scripts", "setup", "test", "tests"}
"""Modules that some libraries install by mistake, and that nothing imports."""


def complaint() -> str | None:
    """One sentence about a module that hides another one; None where none does."""
    here, libraries = Path.cwd().resolve(), _site_packages()
    of_python = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    ours_may_hide = True
    for entry in sys.path:
        folder = Path(entry or os.curdir).resolve()
        if folder in libraries:
            break
        if folder == _ROOT:
            ours_may_hide = False
            continue
        if folder in of_python or not folder.is_dir():
            continue
        hidden = _modules(folder) & (_OURS if ours_may_hide else set())
        whose = "this project's own"
        if not hidden and folder == here:
            hidden, whose = _modules(folder) & _installed(libraries), "a library's"
        if hidden:
            return (
                f"{folder} has a module {min(hidden)}, which hides {whose}; start it as diffmix "
                "and without that folder on PYTHONPATH (python -m jobs.run is for a checkout of "
                "this project alone), or rename the module."
            )
    return None


def _site_packages() -> set[Path]:
    return {Path(sysconfig.get_path(place)).resolve() for place in ("purelib", "platlib")}


def _installed(libraries: set[Path]) -> set[str]:
    """The names of all installed modules, and of the standard library's."""
    return set(sys.stdlib_module_names).union(*map(_modules, libraries)) - _NOBODYS


def _modules(folder: Path) -> set[str]:
    """The names of a folder's modules. A folder without an `__init__.py` hides nothing."""
    found = set()
    for entry in os.scandir(folder) if folder.is_dir() else ():
        name, dot, _ = entry.name.partition(".")
        if entry.is_dir():
            if os.path.isfile(os.path.join(entry.path, "__init__.py")):
                found.add(entry.name)
        elif dot and entry.name.endswith((".py", ".so")):
            found.add(name)
    return found
