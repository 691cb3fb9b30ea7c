"""Relative paths in options, made absolute."""

from __future__ import annotations

import os
import typing
from collections.abc import Collection
from operator import attrgetter
from typing import Any

from diffmix.options.markers import Place
from diffmix.options.option import options

_EMBEDDED = "nano"  # the name of what is embedded in the package, where an option may be a name


def place_of(kind: Any) -> Place | None:
    """The mark of an option's type, or of the type of its list's members."""
    found = [mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, Place)]
    found += filter(None, map(place_of, typing.get_args(kind)))
    return found[0] if found else None


def absolute_paths(tree: Any, but: Collection[str] = ()) -> dict[str, Any]:
    """The options of a tree whose relative paths begin in the current folder: dotted name -> the
    value with absolute paths. Options in `but` are left out.
    """
    kind: Any = type(tree)  # checkers do not see that types can be hashed
    changes: dict[str, Any] = {}
    for name, option in options(kind).items():
        place, value = place_of(option.kind), attrgetter(name)(tree)
        if place is None or not value or name in but:
            continue
        if isinstance(value, str):
            changes[name] = absolute(value, place)
        else:
            changes[name] = tuple(absolute(member, place) for member in value)
    return changes


def absolute(text: str, place: Place) -> str:
    """A value of an option with its path absolute. URIs and names stay as they are."""
    prefix = place.prefix(text)
    path, bare = text[len(prefix) :], "path" if prefix else place.bare
    if not path or "://" in path or bare == "name":
        return text
    found = os.path.abspath(os.path.expanduser(path))
    certain = bare == "path" or path.startswith((".", "~", os.sep))
    if not certain and (path == _EMBEDDED or not os.path.exists(found)):
        return text
    return prefix + found
