"""`diffmix COMMAND --help` and `--help-all`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from operator import attrgetter

from diffmix.config import Config
from diffmix.options import Option, groups, options

HELP = {"-h", "--help", "--help-all"}
LEGEND = "[P] is the paper, [C] the paper's code; what follows is the value there."

_MOST_COLUMNS = 100
_NAME_COLUMNS = 29


def help_text(
    command: str, description: str, reads: tuple[str, ...], config: Config, full: bool
) -> str:
    """The usual options that a command reads, or with `full` every option. `config` has the values
    shown as defaults.
    """
    width = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
    read = {name: option for name, option in options(Config).items() if is_read(option, reads)}
    general = {
        "--config FILE.yaml": "Read options from a file, such as a recipe; later ones win.",
        "--help": "List the usual options.",
        "--help-all": "List every option, with bounds and sources.",
    }
    lines = [
        f"usage: diffmix {command} [--config FILE.yaml ...] [--GROUP.OPTION VALUE ...]",
        "",
        *textwrap.wrap(description, width),
        "",
    ]
    for name, text in general.items():
        lines += _entry(name, text, width)
    usual = [option for option in read.values() if full or option.usual]
    lines += _listing(usual, config, full, width)
    if full:
        rest = [option for name, option in options(Config).items() if name not in read]
        if rest:
            lines += ["", f"Accepted, but without effect on diffmix {command}:"]
            lines += _listing(rest, config, full, width)
        lines += ["", LEGEND]
    return "\n".join(lines)


def is_read(option: Option, reads: Iterable[str]) -> bool:
    """Whether an option is among `Command.reads`, or its group is."""
    return option.name in reads or option.group in reads


def _listing(chosen: list[Option], config: Config, full: bool, width: int) -> list[str]:
    lines, group = [], ""
    for option in chosen:
        if option.group != group:
            group = option.group
            lines += ["", *textwrap.wrap(f"{group}: {groups(Config)[group]}", width)]
        lines += _entry(f"--{option.name}", _text(option, config, full), width)
    return lines


def _text(option: Option, config: Config, full: bool) -> str:
    value = attrgetter(option.name)(config)
    default = f"default: {option.written(value)}"
    if full:
        unit = f"; in {option.unit}" if option.unit and value is None else ""
        return f"{option.text} ({option.allowed}{unit}; {default}) {option.source}".rstrip()
    return option.summary if value in (None, "", ()) else f"{option.summary} ({default})"


def _entry(name: str, text: str, width: int) -> list[str]:
    """A name and its text beside it; below it where the name is too long."""
    lines = textwrap.wrap(
        text, width - _NAME_COLUMNS, break_long_words=False, break_on_hyphens=False
    )
    indented = [" " * _NAME_COLUMNS + line for line in lines]
    if len(name) + 4 > _NAME_COLUMNS:
        return [f"  {name}", *indented]
    return [f"  {name}".ljust(_NAME_COLUMNS) + lines[0], *indented[1:]]
