"""A run's mixes or its concept in other people's layouts. Needs no cluster."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from diffmix.classifier.model import load_description
from diffmix.config import Config, replace
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.format_version import without_version
from diffmix.formats import FORMATS, lora, reference, reference_concept
from diffmix.formats.named_mix import NamedMix
from diffmix.formats.synthetic_mark import marked
from diffmix.generator.concept import Concept
from diffmix.storage import Folder
from engine.mixing.store import MixStore
from engine.results.cards import CARD_FILE, data_card, model_card, write_timm_config
from engine.run_folder import read_json


def export(config: Config) -> str:
    """Write `config.out`'s mixes or concept to `config.export.to`, and say what was written.

    Raises `UserError` where there is nothing to export, and for a destination that holds something.
    """
    check(config)
    if not config.out or not config.export.to:
        missing = "export.to" if config.out else "out"
        raise UserError(f"--{missing} is not set: diffmix export --out RUN --export.to FOLDER.")
    to = Folder(config.export.to)
    if to.names():
        raise UserError(f"{to.uri} is not empty; choose another --export.to.")
    if config.export.format == "classifier":
        _export_classifier(config, to)
        return "The classifier"
    if config.export.format in FORMATS:
        return f"{_export_mixes(config, to)} mixes"
    _export_concept(config, to)
    return "The concept"


def _export_mixes(config: Config, to: Folder) -> int:
    """Gives how many."""
    store = MixStore((Folder(config.out) / "mixes").uri)
    class_names = store.class_names
    mixes = (mix for mix in store.named() if mix.accepted or config.export.rejected)
    first = next(mixes, None)
    if first is None:
        raise UserError(
            f"{store.folder.uri} has no mixes to export; make some, or set --export.rejected True "
            "where the gate rejected all."
        )
    every: Iterator[NamedMix] = itertools.chain([first], mixes)
    if config.export.marked:
        every = (_marked(mix, config.export.format == "reference") for mix in every)
    count = FORMATS[config.export.format].write(to.create(), every, class_names)
    if config.export.format == "imagefolder":
        to.write(CARD_FILE, data_card(_as_run(config), count, class_names).encode())
    return count


def _marked(mix: NamedMix, as_png: bool) -> NamedMix:
    """A mix whose file says that it is synthetic; `as_png` where its layout has PNG alone."""

    def load() -> bytes:
        file = reference.as_png(mix) if as_png else mix.load()
        return marked(file, bool(mix.source_id), f"mix {mix.mix_id}")

    return dataclasses.replace(mix, load=load)


def _export_classifier(config: Config, to: Folder) -> None:
    """The weights as they are, timm's `config.json`, this project's `model.json`, a model card."""
    out = Folder(config.out)
    classifier = out / "classifier"
    description = load_description(classifier)
    to.create()
    for name in ("model.safetensors", "model.json"):
        to.write(name, classifier.read(name))
    write_timm_config(to)
    summary = read_json(out, "summary.json") if out.exists("summary.json") else {}
    to.write(CARD_FILE, model_card(_as_run(config), summary, description).encode())


def _as_run(config: Config) -> Config:
    """The configuration that the run folder was made with; the given one where it has none."""
    out = Folder(config.out)
    if not out.exists("config.yaml"):
        return config
    values = without_version(yaml.safe_load(out.read("config.yaml")), f"{out.uri}/config.yaml")
    changes = {}
    for name in ("data.train", "data.superclass", "model.base", "mix.strategy", "mix.gamma"):
        group, _, key = name.partition(".")
        if key in values.get(group, {}):
            changes[name] = values[group][key]
    for name in ("strength", "synthetic_p"):
        if name in values.get("mix", {}):
            value = values["mix"][name]
            changes[f"mix.{name}"] = tuple(value) if isinstance(value, list) else value
    return replace(config, **changes)


def _export_concept(config: Config, to: Folder) -> None:
    given = config.personalize.concept
    folder = Folder(given) if given else Folder(config.out) / "concept"
    concept = Concept.load(folder.fetch())
    weights = concept.lora_weights()
    with TemporaryDirectory(prefix="diffmix-export-") as scratch:
        if config.export.format == "reference-concept":
            embeds = concept.embeds() if concept.tokens else {}
            reference_concept.write(Path(scratch), concept.tokens, embeds, weights)
        elif weights:
            lora.write_peft(weights, Path(scratch), concept.base)
        else:
            raise UserError(
                f"The concept in {folder.uri} has tokens but no LoRA, so nothing of it has a form "
                "in peft."
            )
        to.create().upload(scratch)
