"""The console script `diffmix`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from diffmix.errors import UserError

COMMANDS = {
    "run": "The whole job: personalize, then make mixes while the classifier trains on them.",
    "personalize": "Teach the base model the classes: tokens and LoRA, into OUT/concept.",
    "preview": "Make a contact sheet from a concept, into OUT/preview.png; needs no cluster.",
    "synthesize": "Make all mixes of the plan, into OUT/mixes.",
    "filter": "Score OUT's mixes with a CLIP and reject the worst; nothing is made again.",
    "train": "Train the classifier on the real images and the mixes of OUT.",
    "evaluate": "Test OUT's classifier; with --evaluate.mixes N, measure N of its mixes too.",
    "compose": "Put mixes together, our own and other people's, into OUT/mixes; needs no cluster.",
    "export": "Write OUT's mixes or concept in another layout; needs no cluster.",
    "report": "Write OUT's report and pictures again.",
    "plan": "Print what a run would make and ask for; starts nothing.",
    "doctor": "Print what this machine has, what is missing and what to do about it.",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit code 0, 2 for anything that the user can mend (one sentence on standard
    error), 1 for a defect.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(_usage())
            return 0
        command, *rest = arguments
        if command not in COMMANDS:
            import difflib

            close = difflib.get_close_matches(command, COMMANDS, n=1)
            raise UserError(
                f"{command} is not a command{f'; did you mean {close[0]}?' if close else '.'} See diffmix --help."
            )
        if command == "doctor":
            from jobs.doctor import doctor

            return doctor()
        from jobs.options import parse

        config = parse(rest, command, COMMANDS[command])
        if config.run.seeds and command != "run":
            one = f"{config.out}/seed-{config.run.seeds[0]}/config.yaml"
            raise UserError(
                f"--run.seeds is for diffmix run; diffmix {command} takes one seed's configuration, such as --config {one}."
            )
        from jobs import commands

        action: Callable = getattr(commands, command)
        action(config)
        return 0
    except UserError as error:
        print(f"diffmix: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffmix: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def _usage() -> str:
    lines = [f"  {name:<12} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: diffmix COMMAND [--config FILE.yaml] [--GROUP.OPTION VALUE ...]",
            "",
            "Better classifiers for fine-grained classes: personalized diffusion makes inter-class mixes while the classifier trains.",
            "",
            *lines,
            "",
            "diffmix COMMAND --help lists every option with its default. Recipes are in jobs/recipes/.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
