"""The options of a tree of dataclasses, each with all that its field says of it."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import textwrap
import typing
from functools import cache, cached_property

from diffmix.errors import UserError
from diffmix.options import phrases
from diffmix.options.markers import USUAL, Placeholder, Unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One option, such as `mix.strength`."""

    name: str
    """Dotted: the group, then the field's name."""
    kind: typing.Any
    """The field's type with its bounds."""
    default: object
    doc: str
    """The docstring under the field, on one line."""

    @property
    def group(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def usual(self) -> bool:
        return USUAL in self._marks

    @property
    def unit(self) -> str:
        return next((mark.name for mark in self._marks if isinstance(mark, Unit)), "")

    def written(self, value: object) -> str:
        """A value with its unit: `224 pixels`."""
        words = phrases.shown(value)
        return next((mark.of(words) for mark in self._marks if isinstance(mark, Unit)), words)

    @property
    def text(self) -> str:
        """What the option does."""
        text = self.doc[: self._source_at].rstrip()
        for mark in self._marks:
            if isinstance(mark, Placeholder):
                text += f" {mark.word} is {phrases.joined(mark.names())}."
        return text

    @property
    def summary(self) -> str:
        """The first sentence of `text`."""
        return re.split(r"(?<=\.)\s", self.text, maxsplit=1)[0].removesuffix(".")

    @property
    def source(self) -> str:
        """Where the value comes from: `[P]` or `[C]`, and the value there; empty for an option of
        this project's own.
        """
        return self.doc[self._source_at :]

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return phrases.allowed(self.kind)

    @property
    def optional(self) -> bool:
        return type(None) in phrases.alternatives(self.kind)

    def fit(self, value: object, where: str = "") -> typing.Any:
        """`value` as the option's type: a list becomes a tuple, and a text a number.

        Raises `UserError` for a value of another type or out of bounds. `where` follows the name in
        its sentence: ` in recipe.yaml`.
        """
        from pydantic import ValidationError

        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            close = difflib.get_close_matches(str(value), phrases.choices(self.kind), n=1)
            end = f"; did you mean {close[0]}?" if close else "."
            raise UserError(
                f"--{self.name}{where} is {phrases.shown(value)}, "
                f"but it must be {self.allowed}{end}"
            ) from error

    @cached_property
    def _adapter(self) -> typing.Any:
        from pydantic import ConfigDict, TypeAdapter

        return TypeAdapter(self.kind, config=ConfigDict(allow_inf_nan=False))

    @property
    def _marks(self) -> tuple:
        return getattr(self.kind, "__metadata__", ())

    @property
    def _source_at(self) -> int:
        found = re.search(r"\[[PC]\]", self.doc)
        return found.start() if found else len(self.doc)


@cache
def options(tree: type, group: str = "") -> dict[str, Option]:
    """The options of a dataclass and of the dataclasses in it, by dotted name."""
    kinds = typing.get_type_hints(tree, include_extras=True)
    docs = _docs(tree)
    found: dict[str, Option] = {}
    for field in dataclasses.fields(tree):
        name, kind = f"{group}{field.name}", kinds[field.name]
        if dataclasses.is_dataclass(kind):
            found |= options(typing.cast(type, kind), f"{name}.")
        else:
            found[name] = Option(
                name=name, kind=kind, default=field.default, doc=docs.get(field.name, "")
            )
    return found


def groups(tree: type) -> dict[str, str]:
    """What each group of options is about, on one line: the docstrings of the dataclasses in it."""
    kinds = typing.get_type_hints(tree)
    return {
        name: " ".join((kind.__doc__ or "").split())
        for name, kind in kinds.items()
        if dataclasses.is_dataclass(kind)
    }


def _docs(tree: type) -> dict[str, str]:
    """The docstring under each field of a class, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(tree))).body
    found = {}
    for field, below in itertools.pairwise(typing.cast(ast.ClassDef, definition).body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                found[name] = " ".join(text.split())
    return found
