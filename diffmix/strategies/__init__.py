"""Ways to make a mix: what it starts from, which class it may become, what it is told.

A strategy is a `Strategy` record. Each module here lists its own as `STRATEGIES`, and
`--mix.strategy` takes their names, or `module:attribute` for a record of a user's own.
"""

from diffmix.options.registry import Registry
from diffmix.strategies.mix_spec import MixSpec
from diffmix.strategies.strategy import PromptContext, Strategy

__all__ = ["MixSpec", "PromptContext", "Strategy", "find", "names"]

REGISTRY: Registry[Strategy] = Registry(
    package="diffmix.strategies",
    attribute="STRATEGIES",
    option="mix.strategy",
    what="strategy",
    accepts=lambda entry: isinstance(entry, Strategy),
)
names = REGISTRY.names
find = REGISTRY.find
