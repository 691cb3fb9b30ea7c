"""What a run would make, ask for and take; starts nothing."""

from __future__ import annotations

from diffmix.classifier.schedule import Schedule
from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.plan import total_steps
from engine.placement.demand import demand
from engine.placement.preflight import check_inputs
from engine.placement.split import Rates, choose, measured

CLUSTERS = (2, 4, 8, 16, 32, 64, 128)
"""Numbers of GPUs that a forecast is made for, besides what the configuration asks for."""

_NOT_COUNTED = "images used, ignored, unreadable: not counted by the version that prepared them"


def forecast(config: Config) -> dict:
    """Counts of the plan, what the cluster is asked for, and for several numbers of GPUs the best
    split and its expected time.

    `data` says in lines what became of the files of the data set. Times need rates. They come from
    `placement.measured` or from an earlier run in the run folder, and are left out where there is
    none. Checks and decodes the data, which a later run then reuses, and raises what that raises.
    """
    inputs = check_inputs(config)
    config, data = inputs.config, inputs.data
    plan = inputs.source.plan(config)
    steps = total_steps(plan, config.mix.num_inference_steps)
    stored = len(inputs.source.store.stored_chunks())
    chunks = str(plan.num_chunks)
    if config.mix.batch == "auto" and inputs.source.makes_mixes:
        chunks = "as many as mix.batch auto gives"
    need = demand(config)
    shares = f"{need.mixer_gpus:g} mix, {need.trainer_gpus:g} train"
    if config.placement.auto:
        shares = "split by rates"
    sizes = [len(part) if part else 0 for part in (data.train, data.val, data.test)]
    result: dict = {
        "real images (train, validation, test)": ", ".join(str(size) for size in sizes),
        "classes": len(data.train.class_names),
        "mixes planned": len(plan),
        "chunks (stored already)": f"{chunks} ({stored})",
        "denoising steps": steps,
        "classifier steps": config.train.epochs * Schedule(config.train, len(data.train)).steps,
        "GPUs asked for": f"{need.gpus:g} ({shares}; {config.run.mode})",
        "CPUs asked for": f"{need.cpus:g}",
        "data": data.account.lines() if data.account else [_NOT_COUNTED],
    }
    rates = measured(config, inputs.out, len(data.train))
    if rates is None:
        result["expected time"] = (
            "unknown until a run in this folder, or in --placement.measured, has measured its rates"
        )
        return result
    training = []
    for workers, seconds in rates.train_seconds.items():
        training.append(f"{seconds:.0f} s of training on {workers}")
    mixing = f"{rates.mixer:.3g} mixes/s a mixer"
    result["rates"] = f"{rates.source}: {', '.join([mixing, *training])}"
    result["splits"] = splits(config, rates, len(plan))
    return result


def splits(config: Config, rates: Rates, planned: int) -> list[dict]:
    """The best split of each number of GPUs, and its cost. Too few GPUs are left out."""
    rows = []
    for gpus in sorted({*CLUSTERS, demand(config).gpus}):
        try:
            share = choose(config, rates, planned, gpus)
        except UserError:
            continue
        rows.append(
            {
                "GPUs": gpus,
                "mixers": share.mixers,
                "trainers": share.trainers,
                "generate s": share.generate,
                "train s": share.train,
                "wall s": share.wall,
                "GPU-hours": share.wall * share.gpus / 3600,
            }
        )
    return rows
