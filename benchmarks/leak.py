"""What the leak of the reference's few-shot code adds on nano.

There the concept is personalized on other shots than those that are mixed and trained on. For each
seed this runs the demo's recipe twice on the same shots, with the concept of these shots (honest)
and with that of another draw (leaky, `--personalize.data_seed`), and the classifier without mixes.
Intervals are Student's, at 95 %, over the seeds. Mixes are made before training starts.
"""

from __future__ import annotations

import logging
import os
import tempfile

from benchmarks import record
from benchmarks.strategies import RECIPE, interval
from diffmix.config import Config, replace
from diffmix.storage import Folder
from engine.run_folder import read_json
from jobs.options import load

OTHER_DRAW = 1000
"""Added to a seed, it gives the seed of the leaky concept's shots."""


def config(arm: str, seed: int, out: str, recipe: Config) -> Config:
    """One arm of one seed. The honest arm also trains without mixes."""
    changes = {
        "out": f"{out}/seed-{seed}/{arm}",
        "data.seed": seed,
        "run.seed": seed,
        "run.mode": "staged",
        "train.baseline": arm == "honest",
        "personalize.data_seed": seed + OTHER_DRAW if arm == "leaky" else None,
    }
    return replace(recipe, **changes)


def figures_of(top1: dict[str, list[float]]) -> dict[str, float]:
    """Accuracies in percent and paired differences in points. Each arm's are in the order of the
    seeds.
    """
    figures: dict[str, float] = {}
    for arm, found in top1.items():
        figures[f"{arm}_top1"], figures[f"{arm}_top1_ci"] = interval(found)
    for name, one, other in (
        ("leak", "leaky", "honest"),
        ("honest_gain", "honest", "no_mixes"),
        ("leaky_gain", "leaky", "no_mixes"),
    ):
        pairs = [a - b for a, b in zip(top1[one], top1[other], strict=True)]
        figures[name], figures[f"{name}_ci"] = interval(pairs)
    return figures


def _run(chosen: Config) -> dict:
    from engine.run import run

    out = Folder(chosen.out)
    return read_json(out, "summary.json") if out.exists("summary.json") else run(chosen)


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--keep", metavar="FOLDER", help="keep the runs there; the same command then resumes"
    )
    chosen = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(level=logging.WARNING)
    recipe = load(str(RECIPE))
    top1: dict[str, list[float]] = {"no_mixes": [], "honest": [], "leaky": []}
    shares: dict[str, list[float]] = {"honest": [], "leaky": []}
    with tempfile.TemporaryDirectory(prefix="diffmix-leak-") as temporary:
        out = os.path.abspath(chosen.keep or temporary)
        for seed in chosen.seeds:
            for arm, found in shares.items():
                summary = _run(config(arm, seed, out, recipe))
                top1[arm].append(100 * summary["accuracy"]["top1"])
                found.append(100 * summary["mixer"]["oracle_share"])
                if arm == "honest":
                    top1["no_mixes"].append(100 * summary["baseline"]["top1"])
                print(f"seed {seed}, {arm}: {top1[arm][-1]:.2f} %", flush=True)
    figures = figures_of(top1)
    for arm, found in shares.items():
        figures[f"{arm}_oracle_share"] = sum(found) / len(found)
    print(__doc__)
    rows: list[list[object]] = []
    for arm in top1:
        share = figures.get(f"{arm}_oracle_share")
        rows.append(
            [
                arm.replace("_", " "),
                f"{figures[f'{arm}_top1']:.1f} ± {figures[f'{arm}_top1_ci']:.1f}",
                f"{share:.0f}" if share is not None else "",
            ]
        )
    rows.append(["leaky over honest", f"{figures['leak']:+.1f} ± {figures['leak_ci']:.1f}", ""])
    title = f"nano, {recipe.data.shots} shots a class, {len(chosen.seeds)} seeds"
    record.show(title, ["arm", "top-1 %", "mixes that show their target %"], rows)
    record.write(chosen.json, figures, seeds=chosen.seeds, top1=top1)


if __name__ == "__main__":
    main()
