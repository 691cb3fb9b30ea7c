"""What is checked before anything costly, without a cluster and without changing anything but the
prepared images in the run folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from dataclasses import dataclass

from diffmix.config import Config, images_of, with_absolute_paths
from diffmix.config_check import check
from diffmix.datasets.prepare import Prepared, prepare
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.inputs.decoding import DecodeOnCluster
from engine.listeners import check_listeners
from engine.mixing.batch_size import with_stored_batch
from engine.mixing.filter import check_gate
from engine.mixing.mix_source import MixSource, find_mix_source
from engine.run_folder import uses_concept

log = logging.getLogger(__name__)

_SPARE_BYTES = 50_000_000
"""For checkpoints, the classifier and the concept."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a checked configuration stands for."""

    config: Config
    """The given one. Where `mix.batch` was auto and the run folder has mixes, with their number."""
    out: Folder
    data: Prepared
    source: MixSource


def check_inputs(config: Config, trains: bool = False) -> Inputs:
    """Check everything that can be known without a cluster: options, the run folder and what it
    holds, every image, the models' names.

    With `trains` also that the classifier's starting weights can be had, which downloads those of
    the hub. Raises `UserError` for the first thing that is wrong. The first call for a run folder
    decodes all images and keeps them there.
    """
    config = with_absolute_paths(config)
    check(config)
    check_listeners(config.run.listeners)
    if not config.out:
        raise UserError("--out is not set: name the folder that the run is to be kept in.")
    if not config.data.train:
        raise UserError(
            "--data.train is not set: name a folder with one sub-folder of images per class, "
            "NAME:FOLDER for a published data set, or `nano`."
        )
    out = Folder(config.out).create()
    _check_generator(config)
    _check_held_out(config, out)
    data = prepare(images_of(config), out.uri, DecodeOnCluster(config))
    _check_prompts(config, data)
    _check_classifier(config, out, data, trains)
    check_gate(config, data.train)
    config = with_stored_batch(config, out)
    source = find_mix_source(out, data.train)
    source.check(config)
    _check_space(config, out, data, source)
    return Inputs(config=config, out=out, data=data, source=source)


def _check_held_out(config: Config, out: Folder) -> None:
    """Say that `train.protocol reference` holds nothing out; raise `UserError` where the run folder
    has a held-out part already.
    """
    if config.train.protocol != "reference":
        return
    held = 0.0
    # Where the file is missing or damaged, `prepare` says so.
    with contextlib.suppress(OSError, ValueError, KeyError):
        held = json.loads((out / "data").read("data.json"))["settings"]["val_fraction"]
    if held:
        raise UserError(
            f"{out.uri} was made with --data.val_fraction {held:g}, but --train.protocol reference "
            "holds nothing out; choose another --out, or go back to --train.protocol validation."
        )
    if config.data.val_fraction:
        log.warning(
            "--train.protocol reference trains on all training images: --data.val_fraction %g is "
            "not read.",
            config.data.val_fraction,
        )


def _check_generator(config: Config) -> None:
    """Raise `UserError` where the base model or what changes it cannot be had."""
    from diffmix.generator.base_model import check_base
    from diffmix.generator.concept import prompt
    from diffmix.generator.samplers import check_sampler_lora
    from diffmix.generator.tiny_vae import check_tiny_vae
    from diffmix.personalize.optimizer import check_optimizer

    check_base(config.model)
    check_optimizer(config.personalize)
    check_tiny_vae(config.model.tiny_vae)
    check_sampler_lora(config.mix.sampler_lora)
    for template in (*config.personalize.prompts, config.personalize.initializer):
        if isinstance(template, str):  # not a token's number
            prompt(template, None, "class", "superclass")


def _check_prompts(config: Config, data: Prepared) -> None:
    """Say which prompts are cut off. Raises `UserError` where that makes two of them the same."""
    from diffmix.generator.concept import prompt
    from diffmix.generator.prompt_encoder import check_lengths

    token = "<class>" if uses_concept(config) and config.personalize.tokens else None
    template, superclass = config.personalize.prompts[0], data.train.superclass
    prompts = {name: prompt(template, token, name, superclass) for name in data.train.class_names}
    cut = check_lengths(config.model, prompts) if token is None else []
    if cut:
        log.warning(
            "%d of %d prompts are longer than what the base model reads, such as %.60r...",
            len(cut),
            len(prompts),
            cut[0],
        )


def _check_classifier(config: Config, out: Folder, data: Prepared, trains: bool) -> None:
    """Raise `UserError` where timm has no such model, or no weights to start from, where an epoch
    has no step, and where the oracle cannot judge these classes.
    """
    from diffmix.classifier.head import freeze_stages
    from diffmix.classifier.model import bare_model, build_model, check_input_size, describe
    from diffmix.classifier.oracle import check_oracle
    from diffmix.classifier.schedule import Schedule

    class_names = data.train.class_names
    if config.run.oracle:
        check_oracle(config.run.oracle, class_names)
    description = describe(config.train, class_names)
    check_input_size(config.train)
    if trains:
        Schedule(config.train, len(data.train), config.placement.trainers)
    if config.train.trained_stages is not None:
        freeze_stages(bare_model(description), config.train.trained_stages)
    starts_from_weights = config.train.pretrained or config.train.checkpoint_path
    if trains and starts_from_weights and not (out / "classifier").exists("finished"):
        # Train workers do the same, hours later.
        build_model(config.train, len(class_names))


def _check_space(config: Config, out: Folder, data: Prepared, source: MixSource) -> None:
    """Raise `UserError` where a local run folder's disk cannot hold the mixes, going by the size of
    the real images.
    """
    if not out.is_local:
        return
    bytes_per_image = os.path.getsize(data.train.path) / max(1, len(data.train))
    plan, stored = source.plan(config), len(source.store.stored_chunks())
    # While mix.batch is auto the plan has no chunks, but then nothing is stored either.
    missing = len(plan) * (1 - stored / plan.num_chunks) if stored else len(plan)
    need = max(0, missing) * bytes_per_image + _SPARE_BYTES
    free = shutil.disk_usage(out.path).free
    if free < need:
        raise UserError(
            f"{out.uri} has {free / 1e6:.0f} MB free, but the run needs about {need / 1e6:.0f} MB; "
            "free some or choose another --out."
        )
