"""What a mixer is told, and what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL.Image import Image

from diffmix.config import Config
from diffmix.datasets.real import classes_of
from diffmix.devices import take_share
from diffmix.gates import GateRule
from diffmix.plan import MixSpec
from diffmix.storage import Folder
from engine.nodes.shared_folder import Marker
from engine.placement.pool import MixerPool
from engine.telemetry import Reporter


@runtime_checkable
class ChunkMixer(Protocol):
    """What a mixer actor holds: `diffmix.generator.mixer.Mixer`, or a stand-in of
    `engine/testing.py` with a simulated cost. It is called by one thread at a time.
    """

    def mix(self, specs: list[MixSpec], sources: list[bytes | None]) -> list[Image]:
        """One image for each spec of a chunk. `sources` are the source images' files; None where
        the strategy starts from noise.
        """
        ...


@runtime_checkable
class Preparing(Protocol):
    """A mixer that can do a part of a chunk's work beforehand, without the device."""

    def prepare(self, specs: list[MixSpec], sources: list[bytes | None]) -> list:
        """What `mix` then takes as `sources`. Any thread calls it, also while another one mixes."""
        ...


def build_mixer(job: MixJob) -> ChunkMixer:
    """The usual `MixJob.build`: a personalized pipeline on this actor's device."""
    from diffmix.generator.mixer import Mixer

    config = job.config
    take_share(config.placement.cpus_per_mixer, config.placement.gpus_per_mixer)
    classes = classes_of(job.real_path)
    concept = Folder(job.concept).fetch() if job.concept else None
    template = config.personalize.prompts[0]
    return Mixer(config.model, config.mix, *classes, concept, template, job.made_with)


@dataclass(frozen=True, kw_only=True)
class MixJob:
    """What every stage needs to know. It is the same for the whole stream, and small: it is pickled
    for each worker.
    """

    config: Config
    real_path: str
    """Path or URI of the training `RealSet`."""
    concept: str | None
    """Path or URI of the concept folder; None for strategies of the base model alone."""
    store: str
    """Path or URI of the mix store."""
    reporter: Reporter
    sizes: tuple[int, ...] = ()
    """The plan's earlier sizes, where it was extended."""
    is_limited: bool = False
    """Whether mixing may be stopped early: then each chunk asks."""
    build: Callable[[MixJob], ChunkMixer] = build_mixer
    """Called on the actor's node; makes what the actor holds."""
    pool: MixerPool | None = None
    """How many mixers; None: as `placement.mixers` says."""
    marker: Marker | None = None
    """By which a mixer knows the run folder; None where nothing is to be looked for."""
    made_with: dict = field(default_factory=dict)
    """How the run's mixes are made (`engine.mixing.made_with`). A mixer that makes them in another
    way notes that in its parts.
    """
    most_set_aside: int = 1
    """How many chunks may be set aside before the run ends."""
    gate: GateRule | None = None
    """Scores each chunk in the actor that made it, and accepts or rejects its mixes. None accepts
    all.
    """
