"""`diffmix completion SHELL`: a script that completes commands, options and their choices.

It is made from the table of commands and the configuration, so that a shell needs no Python when it
completes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.options import options
from diffmix.options.phrases import choices

SHELLS = ("bash", "fish", "zsh")

_BASH = """\
_diffmix() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    elif [ "${{cur#--}}" != "$cur" ]; then
        words="{options}"
    else
        case $prev in
{choices}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _diffmix diffmix
"""
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def script(shell: str, commands: Iterable[str]) -> str:
    """The script for a shell. `UserError` for one that is not known."""
    if shell not in SHELLS:
        raise UserError(
            f"diffmix completion takes one of {', '.join(SHELLS)}, but got {shell or 'none'}."
        )
    known = options(Config)
    values = {f"--{name}": choices(option.kind) for name, option in known.items()}
    names = ["--config", "--help", "--help-all", *values]
    chosen = {name: found for name, found in values.items() if found}
    if shell == "fish":
        return _fish(commands, names, chosen)
    cases = [f'            {name}) words="{" ".join(v)}";;' for name, v in chosen.items()]
    text = _BASH.format(
        commands=" ".join(commands), options=" ".join(names), choices="\n".join(cases)
    )
    return (_ZSH if shell == "zsh" else "") + text


def _fish(commands: Iterable[str], names: Iterable[str], chosen: Mapping[str, list[str]]) -> str:
    lines = [f"complete -c diffmix -n __fish_use_subcommand -f -a '{' '.join(commands)}'"]
    for name in names:
        option = f"complete -c diffmix -n 'not __fish_use_subcommand' -l {name.removeprefix('--')}"
        words = f" -x -a '{' '.join(chosen[name])}'" if name in chosen else ""
        lines.append(option + words)
    return "\n".join(lines) + "\n"
