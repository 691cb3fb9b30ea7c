"""Class names: as they are said, and matched where they went through other people's files."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from diffmix.errors import UserError

_SPACES = re.compile(r"[\s_/\\∕⁄／]+")  # slashes, and what file systems' users write in their place


def spoken(class_name: str) -> str:
    """A class name as it is said in a prompt: `001.Black_footed_Albatross` is `Black footed
    Albatross`.
    """
    return re.sub(r"^\d+\.\s*(?=\D)", "", class_name).replace("_", " ").strip() or class_name


def plain(name: str) -> str:
    """What is left of a class name when spaces, underscores, slashes, a leading number and upper
    case do not count.

    `001.Black_footed_Albatross` and `black footed albatross` are one, and so are `F/A-18` and
    `F_A-18`.
    """
    return _SPACES.sub(" ", unicodedata.normalize("NFC", spoken(name))).strip().casefold()


def match(names: Iterable[str], class_names: list[str], where: str) -> dict[str, int]:
    """Each of `names`, found at `where`, and its place in `class_names`: the same name, or else the
    one that is `plain`ly the same.

    Raises `UserError` for a name that none or several of the classes could be.
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
                f"{where} has mixes of the class {name!r}, which is not one of the {len(class_names)} classes here; check --data.train."
            )
        if len(candidates) > 1:
            both = " and ".join(repr(class_names[label]) for label in candidates[:2])
            raise UserError(
                f"{where} has mixes of the class {name!r}, which could be {both}; rename one of the two."
            )
        found[name] = candidates[0]
    return found
