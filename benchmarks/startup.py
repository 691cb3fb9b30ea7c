"""Seconds from the command to the first mix and to the first train step: `diffmix run` on the
embedded data and model.

Two commands are timed. The first makes mixes with the base model alone, so that only start-up comes
before the first mix. The second personalizes for a few steps first; for it
`seconds_personalized_to_first_mix` counts from the end of personalizing. Times include the start of
the interpreter.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record

RECIPE = Path(__file__).parent.parent / "jobs" / "recipes" / "nano" / "demo.yaml"
SMALL = ["--mix.count", "64", "--train.epochs", "2"]
SMALL += ["--train.baseline", "False", "--run.oracle", "None"]


def run(out: str, *options: str) -> dict[str, float]:
    """Run once; gives the seconds from the command to each moment."""
    command = [sys.executable, "-m", "jobs.cli", "run", "--config", str(RECIPE)]
    command += [*SMALL, *options, "--out", out]
    started = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = time.time()
    events = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]

    def first(kind: str, moment: str) -> float:
        times = [event[moment] for event in events if event["event"] == kind]
        return min(times, default=float("nan")) - started

    return {
        "session": first("start", "time"),
        "mixer_begins": first("mixer_ready", "start"),
        "mixer_ready": first("mixer_ready", "end"),
        "personalized": first("personalize", "end"),
        "first_mix": first("mix", "end"),
        "first_step": first("train", "first_step"),
        "whole": ended - started,
    }


def help_seconds() -> float:
    """Seconds that `diffmix --help` takes."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jobs.cli", "--help"], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    plain, personalized = [], []
    for _ in range(chosen.repeats):
        with tempfile.TemporaryDirectory(prefix="diffmix-startup-") as folder:
            plain.append(run(f"{folder}/plain", "--mix.strategy", "real-mix"))
            personalized.append(run(f"{folder}/personalized", "--personalize.steps", "20"))
    rows: list[list[object]] = []
    for name in plain[0]:
        medians = []
        for runs in (plain, personalized):
            medians.append(statistics.median(found[name] for found in runs))
        rows.append([name.replace("_", " "), *medians])
    figures = {
        f"seconds_to_{name}": statistics.median(found[name] for found in plain)
        for name in ("first_mix", "first_step")
    }
    gaps = [found["first_mix"] - found["personalized"] for found in personalized]
    figures["seconds_personalized_to_first_mix"] = statistics.median(gaps)
    figures["help_seconds"] = statistics.median(help_seconds() for _ in range(5))
    print(__doc__)
    record.show("seconds since the command", ["moment", "base model", "personalized"], rows)
    record.show("figures", ["name", "median"], [[name, value] for name, value in figures.items()])
    record.write(chosen.json, figures)


if __name__ == "__main__":
    main()
