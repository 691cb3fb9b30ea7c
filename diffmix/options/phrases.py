"""An option's type and bounds, and its values, in words."""

from __future__ import annotations

import shlex
import types
import typing
from collections.abc import Iterable, Sequence

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen

from diffmix.options.markers import NUMBERS, OneOf

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
_COUNTS = {1: "one", 2: "two"}


def allowed(kind: typing.Any) -> str:
    """What values a type has: `a number above 0 and at most 1, or None`."""
    kinds = [kind for kind in alternatives(kind) if kind is not type(None)]
    phrases = [_phrase(kind) for kind in kinds]
    if len(kinds) < len(alternatives(kind)):
        phrases.append("None")
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])}, or {phrases[-1]}"


def choices(kind: typing.Any) -> list[str]:
    """The names that a value may be; empty for a type without such."""
    found: list[str] = []
    for alternative in alternatives(kind):
        plain, marks = _parts(alternative)
        if typing.get_origin(plain) is typing.Literal:
            found += map(str, typing.get_args(plain))
        for mark in marks:
            if isinstance(mark, OneOf):
                found += mark.names()
    return found


def alternatives(kind: typing.Any) -> Sequence[typing.Any]:
    """The members of a union; a type that is none is its own only one."""
    plain, _ = _parts(kind)
    if typing.get_origin(plain) in (typing.Union, types.UnionType):
        return typing.get_args(plain)
    return (kind,)


def is_list(kind: typing.Any) -> bool:
    """Whether a value of the type is several words on the command line."""
    return any(typing.get_origin(_parts(member)[0]) is tuple for member in alternatives(kind))


def shown(value: object) -> str:
    """A value as the command line has it."""
    if isinstance(value, (list, tuple)):
        return shlex.join(map(shown, value)) or "empty"
    return str(value) if value != "" else "empty"


def joined(names: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    *first, end = names
    return f"{', '.join(first)} {last} {end}" if first else end


def _phrase(kind: typing.Any) -> str:
    plain, marks = _parts(kind)
    names = choices(kind)
    if any(isinstance(mark, OneOf) and mark.own for mark in marks):
        names.append("module:attribute")
    if NUMBERS in marks:
        return "names with a number each, such as gen=8 train=2"
    if names:
        return joined(names)
    if typing.get_origin(plain) is tuple:
        members = typing.get_args(plain)
        item, item_marks = _parts(members[0])
        many = _many(marks) if members[-1] is Ellipsis else _COUNTS[len(members)]
        return " ".join(filter(None, (many, _PLURALS[item], _bounds(item_marks))))
    return " ".join(filter(None, (_WORDS[plain], _bounds(marks))))


def _parts(kind: typing.Any) -> tuple[typing.Any, tuple]:
    """A type and the marks on it."""
    if typing.get_origin(kind) is typing.Annotated:
        plain, *marks = typing.get_args(kind)
        return plain, tuple(_flat(marks))
    return kind, ()


def _flat(marks: Iterable) -> typing.Iterator:
    for mark in marks:
        if isinstance(mark, GroupedMetadata):
            yield from mark
        else:
            yield mark


def _many(marks: tuple) -> str:
    least = next((mark.min_length for mark in marks if isinstance(mark, MinLen)), 0)
    most = next((mark.max_length for mark in marks if isinstance(mark, MaxLen)), None)
    if most is not None:
        return f"{_COUNTS[least]} or {_COUNTS[most]}"
    return "one or more" if least else "a list of"


def _bounds(marks: tuple) -> str:
    found = {
        type(mark): getattr(mark, type(mark).__name__.lower())
        for mark in marks
        if isinstance(mark, (Gt, Ge, Lt, Le))
    }
    if set(found) == {Ge, Le}:
        return f"from {found[Ge]:g} to {found[Le]:g}"
    words = {Gt: "above", Ge: "of at least", Lt: "below", Le: "at most"}
    return " and ".join(f"{words[bound]} {value:g}" for bound, value in found.items())
