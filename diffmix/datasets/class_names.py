"""Class names: as prompts say them, and matched to the spellings of other programs."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from diffmix.errors import UserError

# Spaces, slashes, and the characters that replace slashes in file names.
_SPACES = re.compile(r"[\s_/\\∕⁄／]+")


def spoken(class_name: str) -> str:
    """A class name as prompts say it: `001.Black_footed_Albatross` -> `Black footed Albatross`."""
    return re.sub(r"^\d+\.\s*(?=\D)", "", class_name).replace("_", " ").strip() or class_name


def plain(name: str) -> str:
    """A class name without what spellings differ in.

    Spaces, underscores and slashes count as the same, and a leading number and upper case do not
    count. So `001.Black_footed_Albatross` equals `black footed albatross`, and `F/A-18` equals
    `F_A-18`.
    """
    return _SPACES.sub(" ", unicodedata.normalize("NFC", spoken(name))).strip().casefold()


def match(names: Iterable[str], class_names: list[str], where: str) -> dict[str, int]:
    """Name -> label for each of `names`: the index of the class with that name in `class_names`.

    A name that is no class is compared by its `plain` form. Raises `UserError`, with `where` (the
    place of the names) in its text, if no class or more than one class matches.
    """
    exact = {name: label for label, name in enumerate(class_names)}
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for label, name in enumerate(class_names):
        alike[plain(name)].append(label)
    found = {}
    for name in names:
        candidates = [exact[name]] if name in exact else alike.get(plain(name), [])
        if not candidates:
            raise UserError(
                f"{where} has mixes of the class {name!r}, which is not one of the "
                f"{len(class_names)} classes here; check --data.train."
            )
        if len(candidates) > 1:
            both = " and ".join(repr(class_names[label]) for label in candidates[:2])
            raise UserError(
                f"{where} has mixes of the class {name!r}, which could be {both}; "
                "rename one of the two."
            )
        found[name] = candidates[0]
    return found


def labels_of(names: list[str], class_names: list[str]) -> list[int | None]:
    """The index in `class_names` of each of `names`, by the name itself or else by its `plain`
    form. None for a name that is no class or could be several.
    """
    exact = {name: label for label, name in enumerate(class_names)}
    similar: defaultdict[str, list[int]] = defaultdict(list)
    for label, name in enumerate(class_names):
        similar[plain(name)].append(label)
    found: list[int | None] = []
    for name in names:
        candidates = similar.get(plain(name), [])
        only = candidates[0] if len(candidates) == 1 else None
        found.append(exact.get(name, only))
    return found


def alike(class_names: list[str]) -> list[list[str]]:
    """The classes whose names differ in case, spaces or a leading number alone."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in class_names:
        groups[plain(name)].append(name)
    return [names for names in groups.values() if len(names) > 1]
