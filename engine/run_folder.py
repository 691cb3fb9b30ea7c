"""What a run folder holds already, and whether it fits the configuration: the concept and the mix
store.
"""

from __future__ import annotations

import json

from diffmix.config import Config
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.gates.gate import make_gate
from diffmix.generator.base_model import base_fingerprint, files_fingerprint
from diffmix.generator.concept import Concept, concept_settings
from diffmix.plan import make_plan
from diffmix.storage import Folder
from engine.mixing.filter import Decision
from engine.mixing.store import MixStore, describe_differences


def uses_concept(config: Config) -> bool:
    """Whether the strategy needs a personalized generator; `real-*` use the base model as it is."""
    return not config.mix.strategy.startswith("real-")


def find_concept(config: Config, out: Folder, real: RealSet) -> str | None:
    """URI of a concept that is there already, given or the run folder's own; None where one has to
    be trained or none is needed.

    `UserError` where it was made for other classes, another base model, other data or other
    settings.
    """
    if not uses_concept(config):
        return None
    given = config.personalize.concept
    folder = Folder(given) if given else out / "concept"
    if not given and not folder.exists("concept.json"):
        return None
    concept = Concept.load(folder.fetch())
    concept.check_matches(real.class_names, base_fingerprint(config.model), folder.uri)
    if not given:
        wanted = {
            **concept_settings(config.personalize),
            "seed": config.run.seed,
            "data": real.fingerprint,
        }
        had = {**concept.settings, "seed": concept.seed, "data": concept.data_fingerprint}
        differences = [
            f"{name} was {had.get(name)} and is {value} now"
            for name, value in wanted.items()
            if had.get(name) != value
        ]
        if differences:
            raise UserError(
                f"The concept in {folder.uri} was made with other settings ({'; '.join(differences)}); choose another --out."
            )
    return folder.uri


def bind_store(config: Config, out: Folder, real: RealSet, concept: str | None) -> MixStore:
    """This run's mix store, tied to its plan; `UserError` where the folder holds another plan's
    mixes.
    """
    store = MixStore((out / "mixes").uri)
    identity = {
        "class_names": real.class_names,
        "plan": make_plan(config, real).settings,
        "data": real.fingerprint,
        "concept": Concept.load(Folder(concept).fetch()).fingerprint if concept else None,
        "base": base_fingerprint(config.model),
        "model": {
            "resolution": config.model.resolution,
            "precision": config.model.precision,
            "tiny_vae": files_fingerprint(config.model.tiny_vae),
            "sampler_lora": files_fingerprint(config.mix.sampler_lora),
        },
        "prompt": config.personalize.prompts[0],
        **_gate_identity(config, store, real.superclass),
    }
    store.bind(json.loads(json.dumps(identity)))
    return store


def _gate_identity(config: Config, store: MixStore, superclass: str) -> dict:
    """The gate's part of a store's identity: what the mixers were told, and nothing once a filter
    has decided over it.

    `UserError` where the store's mixes went through another gate: to change that is what `diffmix
    filter` is for.
    """
    stored = store.identity
    kept = {"gate": stored["gate"]} if stored and stored.get("gate") else {}
    if Decision.of(store) is not None:
        return kept
    gate = make_gate(config.gate, superclass)
    identity: dict = (
        {"gate": {"scorer": gate.scorer, "threshold": gate.threshold, "quantile": gate.quantile}}
        if gate
        else {}
    )
    differences = (
        describe_differences({"gate": kept.get("gate", {})}, {"gate": identity.get("gate", {})})
        if stored
        else []
    )
    if differences:
        raise UserError(
            f"The mixes in {store.folder.uri} went through another gate ({'; '.join(differences)}); "
            "decide again with diffmix filter, or go back to the stored settings."
        )
    return identity
