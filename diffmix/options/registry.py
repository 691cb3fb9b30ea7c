"""Names that options choose among: each file of a package adds its own, so that adding one costs
one file.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

from diffmix.errors import UserError, reason

Entry = TypeVar("Entry")


def names_of(package: str) -> list[str]:
    """`names()` of a package that has a registry. For modules that the package itself imports."""
    return importlib.import_module(package).names()


class Registry(Generic[Entry]):
    """The entries that the modules of `package` list under `attribute`, by their `name`.

    An entry of a user's own is named `module:attribute`. That module must be importable in every
    process: on a cluster also on the workers' nodes.
    """

    def __init__(
        self,
        package: str,
        attribute: str,
        option: str,
        what: str,
        accepts: Callable[[object], bool],
    ):
        self.package = package
        self.attribute = attribute
        """Each module of the package may have a tuple of entries under this name."""
        self.option = option
        """The option that takes a name, for errors."""
        self.what = what
        """What an entry is called in errors, such as "strategy"."""
        self._accepts = accepts  # whether a user's own object can be an entry

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Name -> entry, by module. Raises `ValueError` where two entries have one name."""
        found: dict[str, Entry] = {}
        for info in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            module = importlib.import_module(f"{self.package}.{info.name}")
            for entry in getattr(module, self.attribute, ()):
                if entry.name in found:
                    raise ValueError(f"two entries of {self.package} are called {entry.name}")
                found[entry.name] = entry
        return found

    def names(self) -> list[str]:
        """The names of the package's own entries."""
        return list(self.entries)

    def find(self, name: str) -> Entry:
        """The entry of this name, or the one at `module:attribute`. Raises `UserError` where there
        is none.
        """
        if name in self.entries:
            return self.entries[name]
        if ":" in name:
            return self._import(name)
        close = difflib.get_close_matches(name, self.names(), n=1)
        hint = (
            f"did you mean {close[0]}?"
            if close
            else f"choose one of {', '.join(self.names())}, or name your own as module:attribute."
        )
        raise UserError(f"--{self.option} {name} is not a {self.what}; {hint}")

    def _import(self, name: str) -> Entry:
        module, _, attribute = name.partition(":")
        try:
            entry = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a module of the user's own may raise anything
            raise UserError(
                f"--{self.option} {name} cannot be imported ({reason(error)}); the module must be "
                "on the Python path of this process and of every Ray worker."
            ) from error
        if not self._accepts(entry):
            raise UserError(
                f"--{self.option} {name} is a {type(entry).__name__}, not a {self.what}; see "
                "docs/extending.md."
            )
        return entry
