"""The console script `diffmix`."""

from __future__ import annotations

import difflib
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

from diffmix.errors import UserError
from jobs.own_modules import complaint


class Command(NamedTuple):
    """A line of the table of commands."""

    text: str
    reads: tuple[str, ...] = ()
    """Groups and single options that change what the command does; its `--help` lists them. Every
    command accepts every option, so that one recipe serves all.
    """


_MAKES_MIXES = ("out", "data", "model", "personalize", "mix", "gate")
_TRAINS = ("train", "evaluate.many_above", "evaluate.few_below")
_CONCEPT = ("personalize.concept", "personalize.prompts")

COMMANDS = {
    "run": Command(
        "The whole job: personalize, then make mixes while the classifier trains on them.",
        (*_MAKES_MIXES, *_TRAINS, "placement", "run", "limits"),
    ),
    "personalize": Command(
        "Teach the base model the classes: tokens and LoRA, into OUT/concept.",
        ("out", "data", "model", "personalize", "mix.strategy", "placement", "run"),
    ),
    "preview": Command(
        "Make a contact sheet from a concept, into OUT/preview.png; needs no cluster.",
        ("out", "data", "model", *_CONCEPT, "mix", "gate", "run.seed"),
    ),
    "synthesize": Command(
        "Make all mixes of the plan, into OUT/mixes.", (*_MAKES_MIXES, "placement", "run", "limits")
    ),
    "filter": Command(
        "Score OUT's mixes with a gate and reject the worst; makes no mix anew.",
        ("out", "data.superclass", "gate", "placement", "run.address"),
    ),
    "train": Command(
        "Train the classifier on the real images and the mixes of OUT.",
        (*_MAKES_MIXES, *_TRAINS, "placement", "run"),
    ),
    "evaluate": Command(
        "Test OUT's classifier; with --evaluate.mixes N, measure N of its mixes too.",
        ("out", "data", "evaluate", "gate.clip", "run.seed"),
    ),
    "compose": Command(
        "Put mixes together, from here and elsewhere, into OUT/mixes; needs no cluster.",
        ("out", "compose", "data", "run.seed"),
    ),
    "export": Command(
        "Write OUT's mixes or concept in another layout; needs no cluster.",
        ("out", "export", "personalize.concept"),
    ),
    "report": Command("Write OUT's report again.", ("out", "data", "mix", "run.seed")),
    "plan": Command(
        "Print what a run would make and ask for; starts nothing.",
        (*_MAKES_MIXES, "train", "placement", "run"),
    ),
    "doctor": Command("Print what this machine has, what is missing and what to do about it."),
}

_USAGE = """\
usage: diffmix COMMAND [--config FILE.yaml] [--GROUP.OPTION VALUE ...]

Better classifiers for fine-grained classes: a personalized diffusion model makes inter-class mixes
while the classifier trains on them.

{commands}

diffmix COMMAND --help lists the usual options of a command, --help-all lists every option.
Recipes for --config are in jobs/recipes/."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code.

    0: done. 1: a defect, or `doctor` found something bad. 2: a user error, one sentence on standard
    error. 130: interrupted. 141: nobody reads the output any more. 143: told to end, as by `ray job
    stop` or a batch system.
    """
    before = signal.signal(signal.SIGTERM, _told_to_end)
    try:
        code = _command(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"diffmix: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffmix: interrupted; the same command resumes from here.", file=sys.stderr)
        return 130
    except _ToldToEnd:
        print("diffmix: told to end; the same command resumes from here.", file=sys.stderr)
        return 143
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        # Python flushes what is left when it exits, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        signal.signal(signal.SIGTERM, before)


class _ToldToEnd(BaseException):
    """SIGTERM, on its way out of what runs: sessions close, and nothing takes it for an error."""


def _told_to_end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break what closes
    raise _ToldToEnd


def _command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<12} {command.text}" for name, command in COMMANDS.items()]
        print(_USAGE.format(commands="\n".join(lines)))
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        end = f"did you mean {close[0]}?" if close else "diffmix --help lists them."
        raise UserError(f"{name} is not a command of diffmix; {end}")
    if wrong := complaint():
        raise UserError(wrong)
    from jobs.help import HELP, help_text
    from jobs.options import parse

    config = parse([argument for argument in rest if argument not in HELP], name)
    if HELP & set(rest):
        command = COMMANDS[name]
        print(help_text(name, command.text, command.reads, config, full="--help-all" in rest))
        return 0
    if name == "doctor":
        from jobs.doctor import doctor

        return doctor()
    if config.run.seeds and name != "run":
        one = f"{config.out}/seed-{config.run.seeds[0]}/config.yaml"
        raise UserError(
            f"--run.seeds is for diffmix run; diffmix {name} takes one seed's configuration, "
            f"such as --config {one}."
        )
    from jobs import commands

    action: Callable = getattr(commands, name)
    action(config)
    return 0


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads, as in `diffmix run --help | head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
