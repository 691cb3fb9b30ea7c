"""A run folder's files: its configuration, its JSON files with their format version, and whether
its concept and mix store fit the configuration.
"""

from __future__ import annotations

import json
import logging
import re

import yaml

from diffmix import strategies
from diffmix.config import Config, images_of, replace, to_dict
from diffmix.datasets.prepare import Prepared, prepare
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.format_version import with_version, without_version
from diffmix.gates import make_rule
from diffmix.generator.base_model import base_fingerprint, files_fingerprint, text_widths
from diffmix.generator.concept import Concept
from diffmix.personalize.settings import all_square, concept_settings, differences
from diffmix.plan import MixPlan, make_plan
from diffmix.storage import Folder
from engine.mixing.filter import Decision
from engine.mixing.store import MixStore, describe_differences

log = logging.getLogger(__name__)

_SIZE = ("count", "multiplier", "planned", "sizes")
"""What a plan's identity says of its size."""


def config_yaml(config: Config) -> str:
    """The whole configuration as YAML."""
    return yaml.safe_dump(to_dict(config), allow_unicode=True, sort_keys=False)


def write_config(out: Folder, config: Config) -> None:
    """Keep the whole configuration as `config.yaml`, which `--config` reads."""
    values = with_version(to_dict(config))
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    out.write("config.yaml", text.encode())


def write_json(folder: Folder, name: str, values: dict) -> None:
    """Write a JSON file with its format version."""
    folder.write(name, json.dumps(with_version(values), indent=2).encode())


def read_json(folder: Folder, name: str) -> dict:
    """What `write_json` was given. `UserError` for a damaged file and for a format version that
    cannot be read.
    """
    file = f"{folder.uri}/{name}"
    try:
        values = json.loads(folder.read(name))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); restore it.") from error
    return without_version(values, file)


def uses_concept(config: Config) -> bool:
    """Whether the strategy needs a personalized generator."""
    return strategies.find(config.mix.strategy).uses_concept


def find_concept(config: Config, out: Folder, real: RealSet) -> str | None:
    """The URI of an existing concept, the given one or the run folder's own. None where one has to
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
    concept.check_vectors(text_widths(config.model))
    if not given:
        _check_settings(config, concept, concept_images(config, out, real), folder)
    return folder.uri


def concept_images(config: Config, out: Folder, real: RealSet) -> RealSet:
    """The images that a concept is trained on: the classifier's, `real`, or where
    `personalize.data_seed` asks for another draw those of that seed, kept in the run folder's
    `concept_data/`.
    """
    seed = config.personalize.data_seed
    if seed is None or seed == config.data.seed:
        return real
    data = replace(images_of(config), seed=seed)
    return prepare(data, (out / "concept_data").create().uri).train


def leak(config: Config, out: Folder, data: Prepared) -> dict[str, int]:
    """What a concept knows of images that the classifier is not given (`personalize.data_seed`):
    the number of `unseen_images`, and how many of them are `test_images`. Empty where the concept
    is trained on the classifier's images, or is not trained here.
    """
    if not uses_concept(config) or config.personalize.concept:
        return {}
    images = concept_images(config, out, data.train)
    if images is data.train:
        return {}
    trained, tested = _originals(data.train), _originals(data.test)
    seen = _originals(images) - trained
    return {"unseen_images": len(seen), "test_images": len(seen & tested)}


def _originals(images: RealSet) -> set[str]:
    """The ids of the images. Few-shot sampling calls an image that it draws again `<id>#1`."""
    return {re.sub(r"#\d+$", "", name) for name in images.image_ids}


def _check_settings(config: Config, concept: Concept, real: RealSet, folder: Folder) -> None:
    """Raise `UserError` where the run folder's own concept was made with other settings."""
    settings = concept_settings(config.personalize, all_square(real))
    wanted = {**settings, "seed": config.run.seed, "data": real.fingerprint}
    had = {**concept.settings, "seed": concept.seed, "data": concept.data_fingerprint}
    found = differences(had, wanted, folder.uri)
    if found:
        raise UserError(
            f"The concept in {folder.uri} was made with other settings "
            f"({'; '.join(found)}); choose another --out."
        )


def bind_store(config: Config, out: Folder, real: RealSet, concept: str | None) -> MixStore:
    """This run's mix store, tied to its plan. A plan that has grown since is kept as it is now.
    `UserError` where the folder holds another plan's mixes.
    """
    store = MixStore((out / "mixes").uri)
    stored, identity = store.identity, _identity(config, store, real, concept)
    store.bind(_as_before(identity, stored))
    grown = identity["plan"]["planned"] - stored.get("plan", {}).get("planned", 0)
    if stored and grown > 0:
        log.warning(
            "The plan of %s grows by %d mixes; those that are stored stay.", store.folder.uri, grown
        )
        store.rewrite(identity)
    return store


def check_store(config: Config, out: Folder, real: RealSet, concept: str | None) -> None:
    """Raise the `UserError` that `bind_store` would raise, and write nothing."""
    store = MixStore((out / "mixes").uri)
    store.check(_as_before(_identity(config, store, real, concept), store.identity))


def plan_of(config: Config, store: MixStore, real: RealSet) -> MixPlan:
    """The plan of a store's mixes. Where a larger one is asked for than the store was made for, the
    mixes that are added are chunks of their own (`diffmix.chunks.cut`).
    """
    stored = store.identity.get("plan", {})
    sizes = tuple(stored.get("sizes", ()))
    if stored and len(make_plan(config, real)) > stored["planned"]:
        sizes = (*sizes, stored["planned"])
    return make_plan(config, real, sizes=sizes)


def _as_before(identity: dict, stored: dict) -> dict:
    """The identity with the stored size, where it asks for as many mixes as are planned there or
    for more: how many there are changes none of them.
    """
    before = stored.get("plan", {})
    plan = {**identity["plan"]}
    if not before or plan["planned"] < before.get("planned", 0):
        return identity
    for name in _SIZE:
        plan.pop(name, None)
        if name in before:
            plan[name] = before[name]
    return {**identity, "plan": plan}


def _identity(config: Config, store: MixStore, real: RealSet, concept: str | None) -> dict:
    """What the images of a store depend on, as JSON values."""
    identity = {
        "class_names": real.class_names,
        "plan": plan_of(config, store, real).settings,
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
        **_gate_identity(config, store, real),
    }
    return json.loads(json.dumps(identity))


def _gate_identity(config: Config, store: MixStore, real: RealSet) -> dict:
    """The gate's part of a store's identity: what the mixers were told, and nothing once a filter
    has decided over it.

    `UserError` where the store's mixes went through another gate: to change that is what `diffmix
    filter` is for.
    """
    stored = store.identity
    kept = {"gate": stored["gate"]} if stored and stored.get("gate") else {}
    if Decision.of(store) is not None:
        return kept
    gate = make_rule(config.gate, real.superclass, real.class_names)
    identity: dict = {}
    if gate:
        cut = {"threshold": gate.threshold, "quantile": gate.quantile}
        identity = {"gate": {"scorer": gate.scorer, **cut}}
    had, wanted = kept.get("gate", {}), identity.get("gate", {})
    differences = describe_differences({"gate": had}, {"gate": wanted}) if stored else []
    if differences:
        raise UserError(
            f"The mixes in {store.folder.uri} went through another gate "
            f"({'; '.join(differences)}); decide again with diffmix filter, or go back to the "
            "stored settings."
        )
    return identity
