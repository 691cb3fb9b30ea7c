"""A run's mixes or its concept in other people's layouts. Needs no cluster."""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

from diffmix.config import Config
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.formats import FORMATS, lora, reference_concept
from diffmix.generator.concept import Concept
from diffmix.storage import Folder
from engine.mixing.store import MixStore


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
    every = itertools.chain([first], mixes)
    return FORMATS[config.export.format].write(to.create(), every, class_names)


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
