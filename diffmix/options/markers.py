"""What an option's annotation says besides its type. Bounds are `annotated_types`' own, such as
`Annotated[float, Interval(gt=0, le=1)]`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Interval

T = TypeVar("T")


class _Usual:
    """Marks an option that most users set sooner or later: `--help` lists it."""


USUAL = _Usual()
Usual = Annotated[T, USUAL]
"""`Usual[float]` is a float that `--help` lists; `--help-all` lists every option."""

Share = Annotated[float, Interval(ge=0, le=1)]
"""A share or a probability: 0 to 1."""


@dataclass(frozen=True)
class Unit:
    """What the number counts or measures, in the plural: `pixels`."""

    name: str

    def of(self, value: str) -> str:
        """`1 batch`, `2 batches`, `None` and `empty`, neither of which has a unit."""
        if value in ("None", "empty"):
            return value
        one = re.sub(r"(?<=ch|ss)es$|(?<=x)es$|s$", "", self.name)
        return f"{value} {one if value in ('1', '1.0') else self.name}"


@dataclass(frozen=True)
class OneOf:
    """Choices that a registry holds.

    `names` is a function, so that the registry is imported when the choices are needed. A new
    entry of the registry is accepted, listed in the help and suggested without further ado.
    """

    names: Callable[[], Iterable[str]]
    own: bool = False
    """Whether `module:attribute` is a choice too: an entry of the user's own."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def _known(self, value: str) -> str:
        if value not in self.names() and not (self.own and ":" in value):
            raise ValueError
        return value


@dataclass(frozen=True)
class Place:
    """Marks a text that names a file or a folder. A relative one is made absolute where the command
    is given (`diffmix.options.paths`), because Ray's workers have other current folders.
    """

    bare: Literal["path", "path or name", "name"] = "path"
    """What a text without a prefix is. `path or name`: a path where something lies there, else a
    name, such as a hub id.
    """
    prefix: Callable[[str], str] = lambda text: ""
    """What stands before the path: `cub:` of `cub:/data/CUB_200_2011`, empty where nothing does."""


Path = Annotated[str, Place()]
"""A file or a folder: a path, or a URI."""

PathOrName = Annotated[str, Place("path or name")]
"""A path, a URI, or a name."""


@dataclass(frozen=True)
class Placeholder:
    """A word of the option's text, and the names of a registry that it stands for."""

    word: str
    names: Callable[[], Iterable[str]]


class _Numbers:
    """Marks a list of `name=number` words. A recipe may also write a mapping."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(_as_words, handler(source))


def _as_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        value = [f"{name}={number}" for name, number in value.items()]
    numbers(value)
    return value


NUMBERS = _Numbers()
Numbers = Annotated[tuple[str, ...], NUMBERS]
"""Names with a number each: `gen=8 train=2` on the command line, `{gen: 8, train: 2}` in a recipe.
`numbers` gives them as a dict.
"""


def numbers(words: Iterable[str]) -> dict[str, float]:
    """`("gen=8", "train=2")` as `{"gen": 8.0, "train": 2.0}`.

    Raises `ValueError` for a word that is not a name and a finite number of at least 0.
    """
    found = {}
    for word in words:
        name, equals, number = word.partition("=")
        value = float(number)
        if not name or not equals or not 0 <= value < math.inf:
            raise ValueError(word)
        found[name] = value
    return found
