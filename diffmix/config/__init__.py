"""Every option of a run in one typed tree: a file per group, composed here.

A field has the option's default, type, bounds and unit. The docstring under it says what the option
does: `--help` prints its first sentence, `--help-all` and `docs/options.md` print all of it. It
ends with the value in the paper [P] or in the paper's code [C].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from diffmix.config.compose import ComposeConfig
from diffmix.config.data import DataConfig
from diffmix.config.evaluate import EvaluateConfig
from diffmix.config.export import ExportConfig
from diffmix.config.gate import GateConfig
from diffmix.config.mix import MixConfig
from diffmix.config.model import ModelConfig
from diffmix.config.personalize import PersonalizeConfig
from diffmix.config.placement import PlacementConfig
from diffmix.config.run import LimitsConfig, RunConfig
from diffmix.config.train import TrainConfig
from diffmix.options.markers import Path, Usual
from diffmix.options.paths import absolute_paths

T = TypeVar("T", bound=Any)

__all__ = [
    "Config",
    "ComposeConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GateConfig",
    "LimitsConfig",
    "MixConfig",
    "ModelConfig",
    "PersonalizeConfig",
    "PlacementConfig",
    "RunConfig",
    "TrainConfig",
    "images_of",
    "replace",
    "to_dict",
    "with_absolute_paths",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options. A change gives a new configuration: `replace`."""

    out: Usual[Path] = ""
    """Run folder: a local path, s3:// or gs://. All nodes must reach it. A second run in it resumes
    the first.
    """
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    personalize: PersonalizeConfig = field(default_factory=PersonalizeConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    run: RunConfig = field(default_factory=RunConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def replace(config: T, **changes: Any) -> T:
    """A copy with other values of dotted options: `replace(config, **{"mix.count": 3})`.

    `config` may be a group too, whose options have no dot: `replace(config.mix, count=3)`. Values
    are taken as they are: `check` refuses those out of bounds. Raises `TypeError` for an option
    that does not exist.
    """
    grouped: dict[str, dict[str, Any]] = {}
    top = {}
    for option, value in changes.items():
        group, dot, name = option.partition(".")
        if dot:
            grouped.setdefault(group, {})[name] = value
        else:
            top[option] = value
    for group, values in grouped.items():
        top[group] = dataclasses.replace(top.get(group, getattr(config, group)), **values)
    return dataclasses.replace(config, **top)


def images_of(config: Config) -> DataConfig:
    """The options that the images are read by: `data`, without a held-out part where
    `train.protocol reference` trains on all of them.
    """
    if config.train.protocol == "reference":
        return dataclasses.replace(config.data, val_fraction=0.0)
    return config.data


def with_absolute_paths(config: Config, but: Collection[str] = ()) -> Config:
    """A copy whose relative paths begin in the current folder and are absolute. Hub ids, other
    names and URIs stay as they are, and so do the options in `but`.
    """
    return replace(config, **absolute_paths(config, but))


def to_dict(config: object) -> dict:
    """The tree as plain dicts, lists, numbers and strings, ready for YAML and JSON."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))  # type: ignore[call-overload,return-value]
