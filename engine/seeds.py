"""The job for several seeds, whole or its last step, and the mean and standard deviation of what
they reach.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffmix.config import Config, replace
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.report import accuracy
from diffmix.report.html import Report, render_report
from diffmix.storage import Folder
from diffmix.versions import versions
from engine import phases
from engine.listeners import Hears
from engine.mixing.job import MixJob
from engine.placement.calibrate import with_best_split
from engine.results.summary import write_summary
from engine.run import run
from engine.run_folder import config_yaml, read_json, write_config, write_json
from engine.session import Session, open_session

log = logging.getLogger(__name__)


def run_seeds(config: Config, listeners: Sequence[Hears] = ()) -> dict:
    """The job for each of `run.seeds`, on one cluster. Gives what `OUT/summary.json` then holds
    (see `aggregate`), and `report`, the path of the report.

    As `run.seeds_vary` says, each seed is a run of its own in `OUT/seed-N`, or the run is one and
    each seed trains a classifier on its mixes. Data splits have a seed of their own (`data.seed`),
    so all seeds compare on the same images. A second call resumes where the first was stopped.
    """
    check(config)
    if not config.out:
        raise UserError("--out is not set: name the folder that the runs are to be kept in.")
    if config.run.seeds_vary == "classifier":
        return _run_classifiers(config, listeners)
    return _run_everything(config, listeners)


def _run_everything(config: Config, listeners: Sequence[Hears]) -> dict:
    """Each seed personalizes, plans, mixes and trains anew: the deviation is that of the whole
    method and not of its last step alone.
    """
    out = Folder(config.out).create()
    write_config(out, config)
    summaries = {}
    for seed in config.run.seeds:
        log.info("seed %d of %s", seed, config.run.seeds)
        summaries[seed] = run(of_seed(config, seed), listeners=listeners)
    summary = {**aggregate(summaries), "versions": versions()}
    write_json(out, "summary.json", summary)
    out.write("report.html", render_report(_page(config, summary)).encode())
    return {**summary, "report": f"{out.uri}/report.html"}


def _run_classifiers(config: Config, listeners: Sequence[Hears]) -> dict:
    """One concept and one set of mixes, by `run.seed`; then a classifier for each seed, and with
    `train.baseline` one without mixes. `OUT/seed-N` has the classifiers of a seed.

    All mixes are made before the first classifier trains, so that all train on the same ones.
    """
    from engine.results.report import write_report  # needs torch, timm and the plots

    config = replace(config, **{"run.mode": "staged"})
    with open_session(config, None, listeners, personalizes=True, mixes=True, trains=True) as whole:
        concept = phases.personalize(whole)
        whole.source.open(whole.config, concept)
        job = phases.mix_job(whole, concept)
        if whole.source.makes_mixes and config.placement.auto:
            whole = with_best_split(whole, job)
            job = phases.mix_job(whole, concept)
        phases.make_mixes(whole, job)
        whole.source.settle(whole.config)
        results = {}
        for seed in config.run.seeds:
            log.info("classifier of seed %d of %s", seed, config.run.seeds)
            results[seed] = _classifiers_of(whole, job, seed)
        summary = {**write_summary(whole, mixed=True), **accuracies(results)}
        summary.pop("report")
        write_json(whole.out, "summary.json", summary)
        events = whole.telemetry.events
        report = write_report(whole.config, whole.out, whole.data, summary, events, whole.source)
    return {**summary, "report": report}


def _classifiers_of(whole: Session, job: MixJob, seed: int) -> dict:
    """The results of one seed's classifiers, by arm: `accuracy`, and `baseline` where it is on."""
    from engine.results.evaluate import with_class_sizes

    config = replace(whole.config, **{"train.seed": seed})
    folder = (whole.out / f"seed-{seed}").create()
    session = dataclasses.replace(whole, config=config, out=folder)
    phases.train_classifier(session, job)
    arms = {"accuracy": "classifier"}
    if config.train.baseline:
        phases.train_classifier(session, None, baseline=True)
        arms["baseline"] = "baseline"
    results = {}
    for arm, name in arms.items():
        result = read_json(session.out / name, "result.json")
        results[arm] = with_class_sizes(result, whole.data.train, config.evaluate)
    return results


def _page(config: Config, summary: dict) -> Report:
    """The report of all seeds: each seed has its own, too."""
    seeds = accuracy.per_seed(summary["seeds"])
    return Report(
        title=f"Diff-Mix: {len(summary['seeds'])} seeds, {config.mix.strategy}",
        summary=summary,
        charts=[seeds] if seeds else [],
        config=config_yaml(config),
    )


def of_seed(config: Config, seed: int) -> Config:
    """The configuration of one seed's run."""
    out = f"{config.out.rstrip('/')}/seed-{seed}"
    return replace(config, **{"out": out, "run.seed": seed, "run.seeds": ()})


def aggregate(summaries: dict[int, dict]) -> dict:
    """One summary of several runs, in the form of one run's. `summaries` are by seed.

    `accuracy` and `baseline` hold means. `std` holds the sample standard deviations of the same
    figures (n - 1; 0 for one seed), `seeds` each seed's top-1 accuracy. Counts and seconds are
    added up; the times to the first mix and step, `mixer`, `trainer` and `overlap` are means.
    """
    runs = list(summaries.values())
    seconds = [run["seconds"] for run in runs]
    leaks = [run["leak"] for run in runs if "leak" in run]
    return {
        "plan": _added([run["plan"] for run in runs]),
        **({"leak": _merge(leaks, sum)} if leaks else {}),
        "gpu_hours": _merge([run.get("gpu_hours", {}) for run in runs], sum),
        "seconds": _merge(seconds, sum)
        | {key: value for key, value in _merge(seconds, _mean).items() if key.startswith("to_")},
        **{
            key: _merge([run[key] for run in runs], _mean)
            for key in ("mixer", "trainer", "overlap")
        },
        **accuracies(summaries),
    }


def accuracies(results: dict[int, dict]) -> dict:
    """`accuracy` and `baseline` of several seeds, `std` and `seeds`, as in `aggregate`."""
    runs = list(results.values())
    arms = [arm for arm in ("accuracy", "baseline") if all(arm in run for run in runs)]
    figures = {arm: [_figures(run[arm]) for run in runs] for arm in arms}
    return {
        **{arm: {**_merge(figures[arm], _mean), "chosen": _chosen(runs, arm)} for arm in arms},
        "std": {arm: _merge(figures[arm], _deviation) for arm in arms},
        "seeds": {
            str(seed): {arm: run[arm]["top1"] for arm in arms if "top1" in run[arm]}
            for seed, run in results.items()
        },
    }


_FIGURES = ("top1", "top5", "per_class", "per_group", "worst_group", "per_size")


def _figures(result: dict) -> dict:
    """The figures of a classifier's result that may be averaged. Its epoch may not, nor may the
    bins of its calibration, which hold other images in each run.
    """
    found = {key: result[key] for key in _FIGURES if key in result}
    return found | (
        {"calibration": {"ece": result["calibration"]["ece"]}} if "calibration" in result else {}
    )


def _chosen(runs: list[dict], arm: str) -> dict:
    return {"on_test_set": any((run[arm].get("chosen") or {}).get("on_test_set") for run in runs)}


def _added(plans: list[dict[str, int]]) -> dict[str, int]:
    """Counts of several runs, of which some may have kinds that others have not."""
    names = dict.fromkeys(name for plan in plans for name in plan)
    return {name: sum(plan.get(name, 0) for plan in plans) for name in names}


def _merge(values: list[Any], how: Callable[[list], float]) -> Any:
    """Nested dicts of numbers as one, leaf by leaf; keys that not all of them have are left out."""
    if isinstance(values[0], dict):
        return {
            key: _merge([value[key] for value in values], how)
            for key in values[0]
            if all(key in value for value in values)
        }
    return how(values)


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
