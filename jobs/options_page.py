"""`python -m jobs.options_page > docs/options.md` writes the page of all options from the tree."""

from __future__ import annotations

from diffmix.config import Config
from diffmix.options import Option, groups, options
from diffmix.options.phrases import shown
from jobs.cli import COMMANDS
from jobs.help import LEGEND, is_read

_HEAD = f"""\
# Options

Every command accepts every option, in a YAML file (`--config FILE.yaml`) or on the command line
(`--mix.strength 0.3 0.5`). `diffmix COMMAND --help` lists the usual options that the command reads;
they are **bold** here. `diffmix COMMAND --help-all` lists every option.

A relative path begins in the folder in which the command is given, also one in a YAML file, and is
made absolute at once: the workers of a cluster have other current folders, and `config.yaml` in the
run folder then works from anywhere. Only `inherit` is relative to its file. Where an option takes a
name or a path, `--model.base models/sd15` is a folder where there is one, else a hub id. What
begins with `./`, `../` or `~` is always a path.

Source: {LEGEND}

This page is made by `python -m jobs.options_page > docs/options.md`.
"""

_TABLE = """\
| option | default | value | unit | meaning | source |
| --- | --- | --- | --- | --- | --- |"""


def page() -> str:
    """The page as Markdown."""
    sections = {"": "", **groups(Config)}
    parts = [_HEAD]
    for group, about in sections.items():
        chosen = [option for option in options(Config).values() if option.group == group]
        if group:
            parts.append(f"## {group}\n\n{about} Read by {_readers(chosen)}.\n")
        parts.append("\n".join([_TABLE, *map(_row, chosen)]) + "\n")
    return "\n".join(parts)


def _readers(chosen: list[Option]) -> str:
    names = [
        f"`{name}`"
        for name, command in COMMANDS.items()
        if any(is_read(option, command.reads) for option in chosen)
    ]
    return ", ".join(names)


def _row(option: Option) -> str:
    name = f"`{option.name}`"
    cells = (
        f"**{name}**" if option.usual else name,
        f"`{shown(option.default)}`",
        option.allowed,
        option.unit,
        option.text,
        option.source,
    )
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


if __name__ == "__main__":
    print(page(), end="")
