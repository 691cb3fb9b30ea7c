"""From recipe files and dotted options to a `Config`. Every mistake is one sentence."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import yaml

from diffmix.config import Config, replace, with_absolute_paths
from diffmix.errors import UserError
from diffmix.format_version import without_version
from diffmix.options import Option, options
from diffmix.options.phrases import is_list

OUTPUTS = ("out", "export.to")
"""Options that name what is written to. `parse` leaves them as they are in a submitted job, where a
relative one is refused.
"""
_MOST_BYTES, _MOST_VALUES = 1_000_000, 100_000
"""Of a recipe. A few lines of YAML can stand for billions of values."""


def parse(arguments: list[str], command: str = "run") -> Config:
    """The configuration that a command line gives.

    `--config FILE.yaml` may be given several times; later files win over earlier ones, and dotted
    options over files. An option is followed by its value, or by several words where it is a list:
    `--mix.strength 0.3 0.5`. `None` is None where the option may be that. Relative paths begin in
    the current folder, those in files too, and are absolute afterwards. Raises `UserError`.
    """
    known = options(Config)
    config, changes = Config(), {}
    for name, words in _named(arguments, command):
        if name == "config":
            if not any(words):
                raise UserError("--config is empty, but it must be the name of a YAML file.")
            for file in words:
                config = load(file, config)
        elif name not in known:
            end = _suggestion(name, known)
            raise UserError(f"--{name} is not an option of diffmix {command}{end}")
        else:
            changes[name] = _value(known[name], words)
    return with_absolute_paths(replace(config, **changes), but=OUTPUTS if is_submitted() else ())


def is_submitted() -> bool:
    """Whether this is a submitted job. It runs in a copy of the working directory that is deleted
    afterwards.
    """
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _named(arguments: list[str], command: str) -> Iterable[tuple[str, list[str]]]:
    """Each `--name` with the words that follow it; `--name=word` is read too."""
    found: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, word = argument[2:].partition("=")
            found.append((name.replace("-", "_"), [word] if equals else []))
        elif found:
            found[-1][1].append(argument)
        else:
            raise UserError(
                f"{argument} is not an option of diffmix {command}; options begin with two dashes, "
                "such as --out FOLDER."
            )
    return found


def _value(option: Option, words: list[str]) -> object:
    if words == ["None"] and option.optional:
        return None
    # A single word is a value; none and several only fit a list, and `fit` says so.
    return option.fit(words if is_list(option.kind) or len(words) != 1 else words[0])


def load(file: str, base: Config | None = None) -> Config:
    """A recipe's configuration: `base` with what the file says.

    `inherit` in the file names a recipe to start from, by its path relative to the file, or a list
    of recipes, of which later ones win. Raises `UserError`.
    """
    values = without_version(_read(Path(file)), file)
    parents = values.pop("inherit", None) or []
    config = base or Config()
    for parent in [parents] if isinstance(parents, str) else parents:
        config = load(str(Path(file).parent / parent), config)
    known, changes = options(Config), {}
    for name, value in _dotted(values, file):
        if name not in known:
            raise UserError(f"{name} in {file} is not an option{_suggestion(name, known)}")
        one = value is not None and not isinstance(value, (list, tuple, dict))
        option = known[name]
        changes[name] = option.fit(
            [value] if one and is_list(option.kind) else value, f" in {file}"
        )
    return replace(config, **changes)


def _read(file: Path) -> dict:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"The configuration {file} is larger than {_MOST_BYTES // 1000} KB.")
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if next(islice(_nodes(values), _MOST_VALUES, None), None) is not None:
            raise UserError(
                f"The configuration {file} has more than {_MOST_VALUES} values; its aliases repeat "
                "others over and over."
            )
    except OSError as error:
        raise UserError(f"The configuration {file} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The configuration {file} is not valid YAML ({reason}).") from error
    if not isinstance(values, dict):
        raise UserError(
            f"The configuration {file} must be a mapping of option groups, "
            f"but is a {type(values).__name__}."
        )
    return values


def _nodes(value: object) -> Iterator[bool]:
    """One item for each value of a nested one, as often as it is repeated."""
    yield True
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _nodes(key)
            yield from _nodes(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _nodes(item)


def _dotted(values: dict, file: str) -> Iterator[tuple[str, object]]:
    """The file's values by dotted name."""
    groups = {option.group for option in options(Config).values()} - {""}
    for key, value in values.items():
        if key not in groups:
            yield str(key), value
        elif isinstance(value, dict):
            yield from ((f"{key}.{name}", item) for name, item in value.items())
        else:
            raise UserError(f"{key} in {file} is a group of options, but has the value {value!r}.")


def _suggestion(name: str, known: Iterable[str]) -> str:
    """The closest option, also where only the part after the dot is right."""
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        by_leaf = {option.rpartition(".")[2]: option for option in known}
        matches = difflib.get_close_matches(name.rpartition(".")[2], by_leaf, n=1)
        close = [by_leaf[match] for match in matches]
    return f"; did you mean --{close[0]}?" if close else "."
