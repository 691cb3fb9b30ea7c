"""What a run would make, ask for and take; starts nothing."""

from __future__ import annotations

import numpy as np

from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.plan import denoising_steps
from engine.mixing.mix_source import plan_of
from engine.mixing.store import MixStore
from engine.placement.cluster import demand
from engine.placement.split import Rates, choose, measured
from engine.session import check_inputs, with_stored_batch

CLUSTERS = (2, 4, 8, 16, 32, 64, 128)
"""Numbers of GPUs that a forecast is made for, besides what the configuration asks for."""


def forecast(config: Config) -> dict:
    """Counts of the plan, what the cluster is asked for, and for several numbers of GPUs the best
    split and its expected time.

    Times need rates: they come from `placement.measured`, or from an earlier run in the run folder,
    and are left out where there is none. Checks and decodes the data (which a later run then
    reuses), and raises what that raises.
    """
    out, data = check_inputs(config)
    config = with_stored_batch(config, out)
    store = MixStore((out / "mixes").uri)
    plan = plan_of(config, data.train, store)
    strengths = plan.columns(np.arange(len(plan)))["strength"]
    steps = int(denoising_steps(strengths, config.mix.num_inference_steps).sum())
    stored = len(store.stored_chunks())
    need = demand(config)
    shared = (
        "split by rates"
        if config.placement.auto
        else f"{need.mixer_gpus:g} mix, {need.trainer_gpus:g} train"
    )
    result: dict = {
        "real images (train, validation, test)": ", ".join(
            str(len(part)) if part else "0" for part in (data.train, data.val, data.test)
        ),
        "classes": len(data.train.class_names),
        "mixes planned": len(plan),
        "chunks (stored already)": f"{'as many as mix.batch auto gives' if config.mix.batch == 'auto' else plan.num_chunks} ({stored})",
        "denoising steps": steps,
        "classifier steps": config.train.epochs * -(-len(data.train) // config.train.batch_size),
        "GPUs asked for": f"{need.gpus:g} ({shared}; {config.run.mode})",
        "CPUs asked for": f"{need.cpus:g}",
    }
    rates = measured(config, out, len(data.train))
    if rates is None:
        result["expected time"] = (
            "unknown until a run in this folder, or in --placement.measured, has measured its rates"
        )
    else:
        result["rates"] = f"{rates.source}: {rates.mixer:.3g} mixes/s a mixer, " + ", ".join(
            f"{seconds:.0f} s of training on {workers}"
            for workers, seconds in rates.train_seconds.items()
        )
        result["splits"] = splits(config, rates, len(plan))
    return result


def splits(config: Config, rates: Rates, planned: int) -> list[dict]:
    """The best split of each number of GPUs, and its cost; numbers that are too few are left out."""
    rows = []
    for gpus in sorted({*CLUSTERS, demand(config).gpus}):
        try:
            split = choose(config, rates, planned, gpus)
        except UserError:
            continue
        rows.append(
            {
                "GPUs": gpus,
                "mixers": split.mixers,
                "trainers": split.trainers,
                "generate s": split.generate,
                "train s": split.train,
                "wall s": split.wall,
                "GPU-hours": split.wall * split.gpus / 3600,
            }
        )
    return rows
