"""What a run would make, ask for and take; starts nothing."""

from __future__ import annotations

import json

import numpy as np

from diffmix.config import Config
from diffmix.plan import denoising_steps
from engine.cluster import demand
from engine.composed import plan_of
from engine.session import check_inputs
from engine.store import MixStore


def forecast(config: Config) -> dict:
    """Counts of the plan, what the cluster is asked for, and for several splits of its GPUs the expected time.

    Times need rates: they come from `summary.json` of an earlier run in the same folder, and are left out where there
    is none. Checks and decodes the data (which a later run then reuses), and raises what that raises.
    """
    out, data = check_inputs(config)
    store = MixStore((out / "mixes").uri)
    plan = plan_of(config, data.train, store)
    strengths = plan.columns(np.arange(len(plan)))["strength"]
    steps = int(denoising_steps(strengths, config.mix.num_inference_steps).sum())
    stored = len(store.stored_chunks())
    need = demand(config)
    result: dict = {
        "real images (train, validation, test)": ", ".join(str(len(part)) if part else "0" for part in (data.train, data.val, data.test)),
        "classes": len(data.train.class_names),
        "mixes planned": len(plan),
        "chunks (stored already)": f"{'as many as mix.batch auto gives' if config.mix.batch == 'auto' else plan.num_chunks} ({stored})",
        "denoising steps": steps,
        "classifier steps": config.train.epochs * -(-len(data.train) // config.train.batch_size),
        "GPUs asked for": f"{need.gpus:g} ({need.mixer_gpus:g} mix, {need.trainer_gpus:g} train; {config.run.mode})",
        "CPUs asked for": f"{need.cpus:g}",
    }
    if out.exists("summary.json"):
        summary = json.loads(out.read("summary.json"))
        result["splits"] = splits(summary, len(plan), config)
    if not result.get("splits"):
        result["expected time"] = "unknown until a run in this folder has measured its rates"
    return result


def splits(summary: dict, planned: int, config: Config) -> list[dict]:
    """Overlapped wall time and GPU-hours for each way to share out the GPUs, from a run's measured rates.

    Mixing is taken to scale with mixers and training not at all: fine-grained batches stop scaling at a few GPUs, so
    each split keeps the run's number of train workers. Empty where the run measured no rates.
    """
    rate, train_seconds = summary["mixer"]["images_per_second"], summary["seconds"]["train"]
    if not rate or not train_seconds:
        return []
    place = config.placement
    per_mixer = rate / place.mixers[-1]
    rows = []
    for mixers in sorted({1, 2, 4, 8, 16, 32, 64, place.mixers[-1]}):
        generate = planned / (per_mixer * mixers)
        wall = max(generate, train_seconds)
        gpus = mixers * place.gpus_per_mixer + place.trainers * place.gpus_per_trainer
        rows.append(
            {
                "mixers": mixers,
                "trainers": place.trainers,
                "generate s": generate,
                "train s": train_seconds,
                "wall s": wall,
                "GPU-hours": wall * gpus / 3600,
            }
        )
    return rows
