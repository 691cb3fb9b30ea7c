"""The console script `diffmix`."""

from __future__ import annotations

import difflib
import itertools
import os
import select
import signal
import sys
import traceback
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
    words: str = ""
    """What may stand before the options, as its `--help` names it. Empty: nothing."""


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
    "predict": Command(
        "Print what OUT's classifier says of the images below --data.test, as CSV.",
        ("out", "data.test"),
    ),
    "compare": Command(
        "Write compare.html about several runs: diffmix compare A B ... [--out FOLDER].",
        ("out",),
        "OUT OUT ...",
    ),
    "report": Command("Write OUT's report again.", ("out", "data", "mix", "run.seed")),
    "watch": Command(
        "Show a run that goes on elsewhere: diffmix watch OUT.", ("out", "run.display"), "OUT"
    ),
    "ls": Command("List the runs below a folder: diffmix ls FOLDER.", ("out",), "FOLDER"),
    "plan": Command(
        "Print what a run would make and ask for; starts nothing.",
        (*_MAKES_MIXES, "train", "placement", "run"),
    ),
    "completion": Command("Print a script that completes in SHELL.", (), "SHELL"),
    "doctor": Command(
        "Print what this machine lacks and what to do; with --run.address, what each node has.",
        ("run.address", "out"),
    ),
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

    0: done. 1: a defect, a watched run that failed, or `doctor` found something bad. 2: a user
    error, one sentence on standard error. 130: interrupted. 141: nobody reads the output any more.
    143: told to end, as by `ray job stop` or a batch system.
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
    except Exception:
        traceback.print_exc()
        print(_where_to_look(), file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _where_to_look() -> str:
    """After a defect: where the logs are."""
    from engine.display.terminal import log_path
    from engine.failures import worker_logs

    places = ["diffmix: this is a defect, or the cluster broke"]
    if folder := worker_logs():
        places.append(f"workers' logs are in {folder} on each node")
    if path := log_path():
        places.append(f"what libraries printed here is in {path}")
    return f"{'; '.join(places)}. --run.verbose True prints all of it. The same command resumes."


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

    command = COMMANDS[name]
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), rest))
    words = words if command.words else []
    config = parse([argument for argument in rest[len(words) :] if argument not in HELP], name)
    if HELP & set(rest):
        usage = f"{name} {command.words}".rstrip()
        print(help_text(usage, command.text, command.reads, config, full="--help-all" in rest))
        return 0
    if name == "doctor":
        from jobs.doctor import doctor, doctor_of_cluster

        return doctor_of_cluster(config) if config.run.address else doctor()
    if config.run.seeds and name != "run":
        one = f"{config.out}/seed-{config.run.seeds[0]}/config.yaml"
        raise UserError(
            f"--run.seeds is for diffmix run; diffmix {name} takes one seed's configuration, "
            f"such as --config {one}."
        )
    if name == "completion":
        from jobs.completion import script

        print(script(" ".join(words), COMMANDS), end="")
        return 0
    from engine.display.terminal import interruptible, quiet
    from jobs import commands

    action: Callable = getattr(commands, name)
    with interruptible(), quiet(config.run.verbose):
        code = action(config, words) if command.words else action(config)
    return code or 0


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads, as in `diffmix run --help | head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
