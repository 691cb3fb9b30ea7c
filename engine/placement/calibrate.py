"""A short calibration on the cluster: what one mixer and one train step take, before GPUs are
shared out.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import ray

from diffmix.config import Config, replace
from diffmix.datasets.real import open_rows
from diffmix.devices import inference_device, take_share
from diffmix.errors import UserError
from diffmix.plan import make_plan
from engine.display.terminal import say
from engine.mixing.job import MixJob
from engine.nodes.on_a_mixing_node import patiently
from engine.placement.capacity import Capacity
from engine.placement.split import Rates, choose, from_calibration, measured
from engine.session import Session

_STEPS = 5
StepTimer = Callable[[Config, int, list[int]], dict[int, float]]
"""(configuration, number of classes, numbers of workers) -> seconds of a train step for each number
of workers.
"""


def with_best_split(session: Session, job: MixJob, time_steps: StepTimer | None = None) -> Session:
    """The session with as many mixers and train workers as the rates ask for. Prints and records
    the prediction.

    The rates are those of `placement.measured`, of an earlier run in the run folder, or of a
    calibration made now. `time_steps` is `time_train_steps` or a stand-in with a simulated cost.
    """
    config, real = session.config, session.data.train
    rates = measured(config, session.out, len(real))
    if rates is None:
        rates = calibrate(session, job, time_steps or time_train_steps)
    planned = len(session.source.plan(config))
    share = choose(config, rates, planned, session.capacity.total("GPU"))
    session.telemetry.record("split", rates=rates.source, **vars(share))
    say(
        f"Rates {rates.source}: {share.mixers} mixers and {share.trainers} train workers on "
        f"{share.gpus:g} GPUs; expected {share.wall:.0f} s (mixing {share.generate:.0f}, training "
        f"{share.train:.0f})."
    )
    changes = {"placement.mixers": (share.mixers,), "placement.trainers": share.trainers}
    return dataclasses.replace(session, config=replace(config, **changes))


def calibrate(session: Session, job: MixJob, time_steps: StepTimer) -> Rates:
    """Time one mixer on one chunk and one train worker on a few steps, side by side. Takes a minute
    at most, without what they load.
    """
    config, real = session.config, session.data.train
    placement = config.placement
    # One call, one process: their CUDA contexts would stay on GPUs that are wanted next.
    mixer = ray.remote(max_calls=1)(time_mixer).options(
        num_gpus=placement.gpus_per_mixer, num_cpus=placement.cpus_per_mixer
    )
    trainer = ray.remote(max_calls=1)(_call).options(
        num_gpus=placement.gpus_per_trainer, num_cpus=placement.cpus_per_trainer
    )
    workers = _possible_workers(config, session.capacity)
    mixing = mixer.remote(job)
    training = trainer.remote(time_steps, config, len(real.class_names), workers)
    rate, steps = patiently("placement.auto", [mixing, training])
    step_seconds = {str(n): seconds for n, seconds in steps.items()}
    session.telemetry.record("calibration", mixer=rate, step_seconds=step_seconds)
    return from_calibration(config, session.telemetry.events[-1], len(real))


def _possible_workers(config: Config, has: Capacity) -> list[int]:
    """Numbers of train workers that the cluster has GPUs for and that divide the batch; MixUp and
    CutMix mix pairs, so each worker's share has to be even with them.
    """
    pairs = config.train.mixup_alpha or config.train.cutmix_alpha
    most = int(has.total("GPU"))
    unit = 2 if pairs else 1
    return [n for n in range(1, most + 1) if config.train.batch_size % (unit * n) == 0]


def _call(
    time_steps: StepTimer, config: Config, num_classes: int, workers: list[int]
) -> dict[int, float]:
    """Ray makes tasks of functions only; a `StepTimer` may be a stand-in's method."""
    return time_steps(config, num_classes, workers)


def time_mixer(job: MixJob) -> float:
    """Mixes per second of one mixer on the plan's first chunk, after a first call that warms it up.
    Runs on a mixer's node.
    """
    real = open_rows(job.real_path)
    plan = make_plan(job.config, real, sizes=job.sizes)
    ids = plan.chunk_ids(0)
    rows, specs = plan.columns(ids)["source"].tolist(), plan.specs(ids)
    sources: list[bytes | None] = [None] * len(rows)
    if not plan.from_noise:
        sources = list(real.images(rows))
    mixer = job.build(job)
    mixer.mix(specs, sources)
    start = time.perf_counter()
    mixer.mix(specs, sources)
    return len(specs) / (time.perf_counter() - start)


def time_train_steps(config: Config, num_classes: int, workers: list[int]) -> dict[int, float]:
    """Seconds of a train step for each number of workers: forward, backward and optimizer on one
    worker's share of the batch. Runs on a train worker's node.

    The time that workers spend on talking to each other and on decoding is not in it. Numbers whose
    share does not fit in memory are left out; `UserError` where none does.
    """
    import torch

    from diffmix.classifier import loss as losses
    from diffmix.classifier.model import build_model, input_layout
    from engine.training.deepspeed_config import build_optimizer, training_dtype

    take_share(config.placement.cpus_per_trainer, config.placement.gpus_per_trainer)
    device = inference_device()
    recipe = config.train
    dtype = training_dtype(recipe)
    model = build_model(recipe, num_classes).to(device)
    optimizer = build_optimizer(model, recipe)

    def seconds(batch: int) -> float:
        images = torch.randn(batch, 3, recipe.resolution, recipe.resolution, device=device)
        images = images.to(memory_format=input_layout(device))
        labels = torch.full((batch, num_classes), 1 / num_classes, device=device)
        times = []
        for _ in range(1 + _STEPS):
            start = time.perf_counter()
            # As `deepspeed_config` has it.
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                logits = model(images)
            losses.soft_mean(losses.cross_entropy(logits.float()), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return sorted(times[1:])[_STEPS // 2]

    found = {}
    # The smallest share first: what does not fit is everything after it.
    for n in sorted(workers, reverse=True):
        try:
            found[n] = seconds(recipe.batch_size // n)
        except torch.OutOfMemoryError:
            break
    if not found:
        raise UserError(
            f"A train step on {recipe.batch_size // max(workers)} images of {recipe.resolution} px "
            "does not fit in a GPU's memory; lower --train.batch_size or add GPUs."
        )
    return dict(sorted(found.items()))
