"""Gates: which mixes may be trained on. One file a gate, which lists its class as `GATES`.

`gate.kind` takes a gate's name, or `module:attribute` for a gate of a user's own. Without it, the
gate is the one whose option is set.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffmix.config import GateConfig
from diffmix.errors import UserError
from diffmix.gates.gate import Gate, GateRule, Scorer, decision, quantile_cut
from diffmix.options.registry import Registry

__all__ = [
    "Gate",
    "GateRule",
    "Scorer",
    "choose",
    "configured",
    "decision",
    "find",
    "make_rule",
    "names",
    "quantile_cut",
    "rule_from_json",
]

REGISTRY: Registry[type[Gate]] = Registry(
    package="diffmix.gates",
    attribute="GATES",
    option="gate.kind",
    what="gate",
    accepts=lambda entry: isinstance(entry, type) and issubclass(entry, Gate),
)
names = REGISTRY.names
find = REGISTRY.find


def choose(options: GateConfig) -> tuple[str, type[Gate]] | None:
    """(kind, class) of the gate that the options ask for; None without one.

    Raises `UserError` for an unknown kind, a kind whose option is not set, and options of two gates
    without a kind.
    """
    if options.kind is not None:
        chosen = find(options.kind)
        if chosen.option is not None and getattr(options, chosen.option) is None:
            raise UserError(f"--gate.kind {options.kind} needs --gate.{chosen.option}.")
        return options.kind, chosen
    asked = [
        gate
        for gate in REGISTRY.entries.values()
        if gate.option is not None and getattr(options, gate.option) is not None
    ]
    if len(asked) > 1:
        both = " and ".join(f"--gate.{gate.option}" for gate in asked)
        kinds = " or ".join(gate.name for gate in asked)
        raise UserError(f"{both} ask for different gates; set --gate.kind to {kinds}.")
    return (asked[0].name, asked[0]) if asked else None


def configured(options: GateConfig, superclass: str, class_names: Sequence[str]) -> Gate | None:
    """The gate that the options describe, None without one. Reads no files. Raises `UserError` as
    `choose` and `Gate.from_options`.
    """
    chosen = choose(options)
    return chosen[1].from_options(options, superclass, class_names) if chosen else None


def make_rule(options: GateConfig, superclass: str, class_names: Sequence[str]) -> GateRule | None:
    """The gate that the options describe and its rule, None without one. Reads the gate's files for
    its fingerprint; raises `UserError` where they are missing.
    """
    chosen = choose(options)
    if chosen is None:
        return None
    kind, gate_class = chosen
    gate = gate_class.from_options(options, superclass, class_names)
    threshold, quantile = decision(gate_class, options)
    return GateRule(
        kind=kind,
        gate=gate,
        scorer=gate.fingerprint,
        threshold=threshold,
        quantile=quantile,
        cut=threshold,
    )


def rule_from_json(values: dict) -> GateRule:
    """The rule that `GateRule.to_json` gave. Raises `KeyError`, `TypeError` or `UserError` for
    other values.
    """
    kind = values["kind"]
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values["gate"].items()
    }
    return GateRule(**{**values, "gate": find(kind)(**settings)})
