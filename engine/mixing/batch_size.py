"""`mix.batch: auto`, resolved once: from the run folder's store, or else by a measurement where
mixers will run.
"""

from __future__ import annotations

import ray

from diffmix.config import Config, replace
from diffmix.devices import limit_threads
from diffmix.generator.batch_size import LARGEST, saturating_batch
from diffmix.storage import Folder
from engine.failures import user_errors
from engine.mixing.store import MixStore
from engine.placement.cluster import MIX_LABEL

_CHUNKS_PER_MIXER = (
    4  # fewer would leave mixers idle at the end, and training without mixes at the start
)


def stored_batch(out: Folder) -> int | None:
    """The batch that the mixes in the run folder `out` were planned with; None where there are
    none, or composed ones.

    Raises the `UserError` of a damaged store.
    """
    return MixStore((out / "mixes").uri).identity.get("plan", {}).get("batch")


def with_stored_batch(config: Config, out: Folder) -> Config:
    """`config` with the number that `mix.batch auto` means in the run folder `out`, if it has mixes
    already.
    """
    batch = stored_batch(out) if config.mix.batch == "auto" else None
    return replace(config, **{"mix.batch": batch}) if batch else config


def with_measured_batch(config: Config, planned: int) -> Config:
    """`config` with the number that `mix.batch auto` means for a plan of `planned` mixes; see
    `measure_batch`.
    """
    if config.mix.batch != "auto":
        return config
    return replace(config, **{"mix.batch": measure_batch(config, planned)})


def measure_batch(config: Config, planned: int) -> int:
    """Mixes in a chunk, for a plan of `planned`: measured by a task that gets a mixer's resources,
    on a node of the mixers'.

    Raises the `UserError` of a base that cannot be used.
    """
    place = config.placement
    most = max(1, min(LARGEST, planned // (_CHUNKS_PER_MIXER * place.mixers[-1])))
    task = ray.remote(_measure).options(
        name="mix.batch auto",
        num_gpus=place.gpus_per_mixer,
        num_cpus=place.cpus_per_mixer,
        label_selector=MIX_LABEL if place.separate else None,
    )
    with user_errors():
        return ray.get(task.remote(config, most))


def _measure(config: Config, most: int) -> int:
    limit_threads(config.placement.cpus_per_mixer)
    return saturating_batch(config.model, config.mix, most)
