"""`mix.batch: auto`: the number that it stands for.

It is the stored one where the run folder has mixes. Otherwise it is measured where mixers will run.
"""

from __future__ import annotations

from diffmix.config import Config, replace
from diffmix.devices import take_share
from diffmix.generator.device.batch_size import LARGEST, saturating_batch
from diffmix.storage import Folder
from engine.mixing.stages import TASK_BYTES
from engine.mixing.store import MixStore
from engine.nodes.on_a_mixing_node import on_a_mixing_node

# With fewer chunks, mixers would be idle at the end, and training without mixes at the start.
_CHUNKS_PER_MIXER = 4


def stored_batch(out: Folder) -> int | None:
    """The batch that the mixes in the run folder `out` were planned with. None where there are no
    mixes, and for composed ones. `UserError` for a damaged store.
    """
    return MixStore((out / "mixes").uri).identity.get("plan", {}).get("batch")


def with_stored_batch(config: Config, out: Folder) -> Config:
    """The configuration with the number for `mix.batch auto`, if the run folder `out` has mixes."""
    batch = stored_batch(out) if config.mix.batch == "auto" else None
    return replace(config, **{"mix.batch": batch}) if batch else config


def with_measured_batch(config: Config, planned: int, image_bytes: float = 0.0) -> Config:
    """The configuration with the number for `mix.batch auto`, as `measure_batch` finds it."""
    if config.mix.batch != "auto":
        return config
    return replace(config, **{"mix.batch": measure_batch(config, planned, image_bytes)})


def measure_batch(config: Config, planned: int, image_bytes: float = 0.0) -> int:
    """The number of mixes in a chunk for a plan of `planned` mixes. A task with a mixer's resources
    measures it on a mixer's node. `image_bytes` is the mean size of a source image: a chunk's
    sources, which travel together, take `TASK_BYTES` at most.

    `UserError` for a base model that cannot be used.
    """
    placement = config.placement
    largest = min(LARGEST, planned // (_CHUNKS_PER_MIXER * placement.mixers[-1]))
    if image_bytes:
        largest = min(largest, int(TASK_BYTES // image_bytes))
    largest = max(1, largest)
    return on_a_mixing_node("mix.batch auto", placement, _measure, config, largest)


def _measure(config: Config, largest: int) -> int:
    take_share(config.placement.cpus_per_mixer, config.placement.gpus_per_mixer)
    return saturating_batch(config.model, config.mix, largest)
