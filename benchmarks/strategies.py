"""What mixes do for accuracy on nano: no mixes, MixUp, CutMix, real-mix, diff-aug and diff-mix,
over several seeds.

Every arm is the demo's recipe with its augmentation and its number of train steps. The recipe was
tuned on the validation set, for the classifier without mixes. Each seed draws its own ten shots a
class, personalizes on them, plans, mixes and trains. Its arms share images and concept, so that
they are compared in pairs. Intervals are Student's, at 95 %, over the seeds. Mixes are made before
training starts (`--run.mode staged`), so that figures do not depend on how fast they are made.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import record
from diffmix.config import Config, replace
from diffmix.storage import Folder
from diffmix.strategies import find
from jobs.options import load

RECIPE = Path(__file__).parent.parent / "jobs" / "recipes" / "nano" / "demo.yaml"
ARMS: dict[str, dict[str, Any]] = {
    "no_mixes": {},
    "mixup": {"train.mixup_alpha": 1.0},
    "cutmix": {"train.cutmix_alpha": 1.0},
    "real_mix": {"mix.strategy": "real-mix"},
    "diff_aug": {"mix.strategy": "diff-aug"},
    "diff_mix": {"mix.strategy": "diff-mix"},
}
"""Each arm's changes to the recipe. Arms without a strategy have no mixes."""


def config(arm: str, seed: int, out: str, concept: str | None, recipe: Config) -> Config:
    """One arm of one seed."""
    common = {
        "data.seed": seed,
        "run.seed": seed,
        "run.mode": "staged",
        "train.baseline": False,
        "personalize.concept": concept,
    }
    return replace(recipe, out=f"{out}/seed-{seed}/{arm}", **{**common, **ARMS[arm]})


def run_arm(arm: str, chosen: Config) -> dict:
    """The arm's `summary.json`, read where the arm is finished already."""
    from engine.run import run, run_training

    out = Folder(chosen.out)
    if out.exists("summary.json"):
        return json.loads(out.read("summary.json"))
    return run(chosen) if "mix.strategy" in ARMS[arm] else run_training(chosen)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % confidence interval (Student's t, n - 1 degrees of
    freedom); NaN for one value.
    """
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def figures_of(summaries: dict[str, list[dict]]) -> dict[str, float]:
    """The figures: accuracies in percent, differences in points. Each arm's summaries are in the
    order of the seeds.
    """
    figures: dict[str, float] = {}
    accuracy = {
        arm: [100 * summary["accuracy"]["top1"] for summary in found]
        for arm, found in summaries.items()
    }
    for arm, found in summaries.items():
        figures[f"{arm}_top1"], figures[f"{arm}_top1_ci"] = interval(accuracy[arm])
        figures[f"{arm}_worst_group"], figures[f"{arm}_worst_group_ci"] = interval(
            [100 * s["accuracy"]["worst_group"] for s in found]
        )
        if arm != "no_mixes":
            gain = [
                one - other for one, other in zip(accuracy[arm], accuracy["no_mixes"], strict=True)
            ]
            figures[f"{arm}_gain"], figures[f"{arm}_gain_ci"] = interval(gain)
        if arm not in ("no_mixes", "diff_mix") and "diff_mix" in accuracy:
            ahead = [
                one - other for one, other in zip(accuracy["diff_mix"], accuracy[arm], strict=True)
            ]
            figures[f"diff_mix_over_{arm}"], figures[f"diff_mix_over_{arm}_ci"] = interval(ahead)
        if all("oracle_share" in summary.get("mixer", {}) for summary in found):
            figures[f"{arm}_oracle_share"] = 100 * statistics.mean(
                summary["mixer"]["oracle_share"] for summary in found
            )
    return figures


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument(
        "--recipe", default=str(RECIPE), help="a YAML file that every arm starts from"
    )
    parser.add_argument(
        "--keep",
        metavar="FOLDER",
        help="keep the runs there; the same command then resumes, and commands for other seeds may "
        "run at the same time",
    )
    chosen = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(level=logging.WARNING)
    recipe = load(chosen.recipe)
    with tempfile.TemporaryDirectory(prefix="diffmix-strategies-") as temporary:
        out = os.path.abspath(chosen.keep or temporary)
        summaries: dict[str, list[dict]] = {arm: [] for arm in chosen.arms}
        for seed in chosen.seeds:
            concept = None
            # The arm that personalizes comes first.
            for arm in sorted(chosen.arms, key=lambda name: name != "diff_mix"):
                name = ARMS[arm].get("mix.strategy")
                uses = name is not None and find(name).uses_concept
                made = config(arm, seed, out, concept if uses else None, recipe)
                summaries[arm].append(run_arm(arm, made))
                if uses and concept is None:
                    concept = f"{made.out}/concept"
                top1 = summaries[arm][-1]["accuracy"]["top1"]
                print(f"seed {seed}, {arm}: {top1:.4f}", flush=True)
    figures = figures_of(summaries)
    print(__doc__)
    rows: list[list[object]] = []
    for arm in chosen.arms:
        cells = [
            f"{figures[f'{arm}_{name}']:.1f} ± {figures[f'{arm}_{name}_ci']:.1f}"
            if f"{arm}_{name}" in figures
            else ""
            for name in ("top1", "gain", "worst_group")
        ]
        share = figures.get(f"{arm}_oracle_share")
        rows.append([arm.replace("_", " "), *cells, f"{share:.0f}" if share is not None else ""])
    columns = ["arm", "top-1 %", "over no mixes", "worst group %", "mixes that show their target %"]
    shots, seeds = recipe.data.shots, len(chosen.seeds)
    title = f"nano, {shots} shots a class, {seeds} seeds, 1,200 test images"
    record.show(title, columns, rows)
    of_seeds = {}
    for arm, found in summaries.items():
        of_seeds[arm] = [summary["accuracy"]["top1"] for summary in found]
    record.write(chosen.json, figures, seeds=chosen.seeds, top1=of_seeds)


if __name__ == "__main__":
    main()
