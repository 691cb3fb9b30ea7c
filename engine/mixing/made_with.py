"""How a run's mixes are made: GPU model, number format, attention kernels, torch.compile.

None of it says what is in a mix, and all of it can change a mix's last bits. A store keeps how its
first mixes were made. Others may be added in another way, and then say so.
"""

from __future__ import annotations

import logging

import ray

from diffmix.config import Config
from diffmix.devices import take_share
from diffmix.generator.device.measured import made_with_here, made_with_on_cpus
from engine.failures import user_errors
from engine.mixing.store import MixStore
from engine.placement.cluster import MIX_LABEL, has_accelerators

log = logging.getLogger(__name__)


def settle_made_with(config: Config, store: MixStore, chunks: int) -> None:
    """Decide how a run's mixes are made, and keep it in the store, unless that was done before or
    all of the plan's `chunks` are stored.

    On GPUs a task with a mixer's resources measures `model.attention auto` once, so that all mixers
    use the same kernels. `UserError` for a base model that cannot be used.
    """
    if store.made_with or len(store.stored_chunks()) >= chunks:
        return
    made_with = measure_made_with(config)
    store.keep_made_with(made_with)
    log.info("mixes are made with %s", made_with)


def measure_made_with(config: Config) -> dict:
    """How mixers make mixes, in the form of `Mixer.made_with`."""
    placement = config.placement
    # Of a cluster that still has to grow nobody knows it before the task runs.
    gpus_are_there = ray.cluster_resources().get("GPU", 0.0) >= placement.gpus_per_mixer
    if not placement.gpus_per_mixer or (gpus_are_there and not has_accelerators()):
        return made_with_on_cpus(config.model)
    # One call, one process: its CUDA context would stay on the GPU that a mixer gets next.
    task = ray.remote(max_calls=1)(_measure).options(
        name="model.attention auto",
        num_gpus=placement.gpus_per_mixer,
        num_cpus=placement.cpus_per_mixer,
        label_selector=MIX_LABEL if placement.separate else None,
    )
    with user_errors():
        return ray.get(task.remote(config))


def _measure(config: Config) -> dict:
    take_share(config.placement.cpus_per_mixer, config.placement.gpus_per_mixer)
    return made_with_here(config.model, config.mix)
