"""Every option of a run in one typed tree: a file per group, composed here.

The docstring under a field says what the option does, its unit, and where the paper or its code
has it from: [P] is the paper, [C] its code. `--help` and `docs/options.md` print it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from diffmix.config.compose import ComposeConfig
from diffmix.config.data import DataConfig
from diffmix.config.evaluate import EvaluateConfig
from diffmix.config.export import ExportConfig
from diffmix.config.gate import GateConfig
from diffmix.config.mix import MixConfig
from diffmix.config.model import ModelConfig
from diffmix.config.personalize import PersonalizeConfig
from diffmix.config.placement import PlacementConfig
from diffmix.config.run import RunConfig
from diffmix.config.train import TrainConfig

__all__ = [
    "Config",
    "ComposeConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GateConfig",
    "MixConfig",
    "ModelConfig",
    "PersonalizeConfig",
    "PlacementConfig",
    "RunConfig",
    "TrainConfig",
    "to_dict",
]


@dataclass
class Config:
    """All options. `out` is the run folder: everything that the run makes goes there, and a second
    run goes on from it.
    """

    out: str = ""
    """Run folder: a local path, or s3:// or gs:// for a cluster without a shared disk."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    personalize: PersonalizeConfig = field(default_factory=PersonalizeConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    run: RunConfig = field(default_factory=RunConfig)
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def to_dict(config: object) -> dict:
    """The tree as plain dicts, lists, numbers and strings, ready for YAML and JSON."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))  # type: ignore[call-overload,return-value]
