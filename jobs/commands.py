"""One function for each command. It calls the engine and prints the outcome."""

from __future__ import annotations

import json
import os
import shlex
import time
from operator import attrgetter

from diffmix.config import Config
from diffmix.errors import UserError
from jobs.options import OUTPUTS, is_submitted


def run(config: Config) -> None:
    command = time.time()  # before the imports of Ray and torch, which count as start-up time
    from jobs.table import print_summary

    _require_shared_out(config)
    _say_start(config)
    if config.run.seeds:
        from engine.seeds import run_seeds

        summary = run_seeds(config)
    else:
        from engine.run import run as run_all

        summary = run_all(config, command)
    print_summary(summary, config)


def personalize(config: Config) -> None:
    from engine.run import run_personalization

    _require_shared_out(config)
    _say_start(config)
    concept = run_personalization(config)
    print(
        f"The concept is in {concept}."
        if concept
        else f"{config.mix.strategy} uses the base model as it is: nothing to personalize."
    )


def preview(config: Config) -> None:
    from diffmix.report.preview import preview as make_preview

    _require_shared_out(config)
    shown = make_preview(config)
    strengths = ", ".join(f"{strength:g}" for strength in shown["strengths"])
    sources = f"{', '.join(shown['sources'])} into " if shown["sources"] else ""
    targets = ", ".join(shown["targets"])
    print(f"{shown['images']} images, {sources}{targets} at strength {strengths}: {shown['path']}")
    if shown["scores"]:
        words = []
        for strength, score in shown["scores"].items():
            where = f"at {strength:g}" if strength else "of the real images"
            words.append(f"{score:.2f} {where}")
        print(f"mean score of the gate: {', '.join(words)}")


def report(config: Config) -> None:
    from engine.results.report import report as make_report

    make_report(config)
    print(f"{config.out}/report.html")


def synthesize(config: Config) -> None:
    from engine.run import run_mixing

    _require_shared_out(config)
    _say_start(config)
    plan = run_mixing(config)["plan"]
    print(
        f"{plan['stored']} mixes are in {config.out}/mixes ({plan['rejected']} more were rejected)."
    )


def filter(config: Config) -> None:
    from engine.mixing.filter import filter_store

    _require_shared_out(config)
    done = filter_store(config)
    print(
        f"{done['stored']} mixes of {config.out}/mixes are kept, {done['rejected']} with a score "
        f"below {done['cut']:.4g} are rejected ({done['scored']} were scored now)."
    )


def train(config: Config) -> None:
    from engine.run import run_training
    from jobs.table import print_summary

    _require_shared_out(config)
    _say_start(config)
    print_summary(run_training(config), config)


def evaluate(config: Config) -> None:
    from engine.results.evaluate import evaluate_run

    print(json.dumps(evaluate_run(config), indent=2))


def compose(config: Config) -> None:
    from engine.mixing.compose import compose as run_compose

    _require_shared_out(config)
    made = run_compose(config)
    for source in made["composed"]:
        taken = f"{source['taken']} of {source['mixes']} mixes"
        print(f"{taken} of {source['from']} ({source['format']})")
    print(
        f"{made['planned']} mixes of {len(made['class_names'])} classes are in {config.out}/mixes; "
        f"diffmix train --out {shlex.quote(config.out)} trains on them."
    )


def export(config: Config) -> None:
    from engine.results.export import export as run_export

    _require_shared_out(config)
    written = run_export(config)
    print(f"{written} of {config.out} went to {config.export.to} as {config.export.format}.")


def predict(config: Config) -> None:
    from engine.display.terminal import say
    from engine.results.predict import predict as predict_folder

    if not config.data.test:
        raise UserError(
            "--data.test is not set: diffmix predict --out RUN --data.test FOLDER > FILE.csv."
        )
    text, number, broken = predict_folder(config.out, config.data.test)
    print(text, end="")
    if broken:
        say(f"{broken} of {number} images could not be read: the column error says why.")


def compare(config: Config, words: list[str]) -> None:
    from engine.results.compare import compare as compare_runs
    from engine.results.compare import describe

    page = compare_runs(words, config.out or ".")
    print(f"{describe(words)}\n{page}")


def watch(config: Config, words: list[str]) -> int:
    """Gives the exit code: that of the run."""
    from engine.display import make_display
    from engine.display.terminal import say
    from engine.display.watch import watch as watch_run

    out = _one_folder(words, config.out, "watch")
    try:
        outcome = watch_run(out, make_display(config.run.display, out))
    except KeyboardInterrupt:
        say("diffmix: no longer watched; the run is not touched.")
        return 130
    return {"done": 0, "interrupted": 130}.get(outcome, 1)


def ls(config: Config, words: list[str]) -> None:
    from engine.display.runs import find_runs
    from jobs.table import print_runs

    folder = _one_folder(words, config.out, "ls")
    print_runs(find_runs(folder), folder)


def _one_folder(words: list[str], out: str, command: str) -> str:
    """The folder that a command was given before its options, or by --out."""
    if len(words) > 1 or not (words or out):
        given = f"got {', '.join(words)}" if words else "got none"
        raise UserError(f"diffmix {command} takes one folder, but {given}.")
    return words[0] if words else out


def plan(config: Config) -> None:
    from engine.placement.forecast import forecast
    from jobs.table import print_forecast

    print_forecast(forecast(config))


def _say_start(config: Config) -> None:
    """The display has nothing to show before the first event, many seconds from here."""
    from engine.display.terminal import say

    if "progress" in config.run.listeners and config.run.display != "json":
        say("starting: libraries are loaded, data are checked, Ray is connected to")


def _require_shared_out(config: Config) -> None:
    """Refuse a relative folder to write to in a submitted job."""
    for option in OUTPUTS if is_submitted() else ():
        given = attrgetter(option)(config)
        if given and "://" not in given and not os.path.isabs(given):
            raise UserError(
                f"--{option} {given} is relative, but a submitted job's folder is deleted "
                "afterwards; give an absolute path or a URI."
            )
