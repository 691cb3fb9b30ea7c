"""From recipe files and dotted options to a `Config`; every mistake is one sentence."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from pathlib import Path

import yaml

from diffmix.config import Config
from diffmix.errors import UserError


def parse(arguments: list[str], command: str, description: str) -> Config:
    """`--config FILE.yaml` (any number, later ones win), then dotted overrides. `--help` prints
    every option and exits.
    """
    files, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config" or argument.startswith("--config="):
            value = argument.partition("=")[2] or next(remaining, None)
            if not value:
                raise UserError("--config needs the name of a YAML file.")
            files.append(value)
        else:
            rest.append(argument)
    config = Config()
    for file in files:
        config = load(file, config)
    known = list(option_names(Config))
    for argument in rest:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and name not in (*known, "help"):
            raise UserError(
                f"--{name} is not an option of `diffmix {command}`{_suggestion(name, known)}"
            )
    import tyro

    return tyro.cli(
        Config,
        prog=f"diffmix {command}",
        description=description,
        args=rest,
        default=config,
        config=(tyro.conf.FlagConversionOff,),
        use_underscores=True,
    )


def load(file: str, base: Config | None = None) -> Config:
    """A recipe's configuration: `base` with what the file says, which starts from the recipe named
    by its `inherit`, if any.

    `inherit` is a path relative to the file, or a list of them, of which later ones win.
    """
    values = _read(Path(file))
    parents = values.pop("inherit", None) or []
    config = base or Config()
    for parent in [parents] if isinstance(parents, str) else parents:
        config = load(str(Path(file).parent / parent), config)
    return _merge(config, values, file, "")


def _read(file: Path) -> dict:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"The configuration {file} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"The configuration {file} is not valid YAML ({' '.join(str(error).split())})."
        ) from error
    if not isinstance(values, dict):
        raise UserError(
            f"The configuration {file} must be a mapping of option groups, but is a {type(values).__name__}."
        )
    return values


def _merge(config: typing.Any, values: dict, file: str, prefix: str) -> typing.Any:
    """A copy of a dataclass with values replaced, each checked against its field's type."""
    from pydantic import TypeAdapter, ValidationError

    types = typing.get_type_hints(type(config))
    changes = {}
    for key, value in values.items():
        if key not in types:
            raise UserError(
                f"{prefix}{key} in {file} is not an option{_suggestion(prefix + key, list(option_names(Config)))}"
            )
        kind = types[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise UserError(
                    f"{prefix}{key} in {file} is a group of options, but has the value {value!r}."
                )
            changes[key] = _merge(getattr(config, key), value, file, f"{prefix}{key}.")
            continue
        if typing.get_origin(kind) is tuple and not isinstance(value, (list, tuple)):
            value = [value]
        try:
            changes[key] = TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(
                f"{prefix}{key} in {file} is {value!r}, which does not fit: {reason[:1].lower()}{reason[1:]}."
            ) from error
    return dataclasses.replace(config, **changes)


def option_names(kind: type, prefix: str = "") -> typing.Iterator[str]:
    """The dotted name of every option."""
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(types[field.name]):
            yield from option_names(types[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _suggestion(name: str, known: list[str]) -> str:
    """The closest option, also where only the part after the dot is right."""
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        leaf = name.rpartition(".")[2]
        by_leaf = {option.rpartition(".")[2]: option for option in known}
        close = [by_leaf[match] for match in difflib.get_close_matches(leaf, by_leaf, n=1)]
    return f"; did you mean --{close[0]}?" if close else "."
