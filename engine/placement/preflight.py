"""What is checked before anything costly, without a cluster and without changing anything but the
prepared images in the run folder.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from diffmix.config import Config
from diffmix.config_check import check
from diffmix.datasets.prepare import Prepared, prepare
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.inputs.decoding import DecodeOnCluster
from engine.listeners import check_listeners
from engine.mixing.batch_size import with_stored_batch
from engine.mixing.filter import check_gate
from engine.mixing.mix_source import MixSource, find_mix_source

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
    data = prepare(config.data, out.uri, DecodeOnCluster(config))
    _check_classifier(config, out, data, trains)
    check_gate(config, data.train)
    config = with_stored_batch(config, out)
    source = find_mix_source(out, data.train)
    source.check(config)
    _check_space(config, out, data, source)
    return Inputs(config=config, out=out, data=data, source=source)


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
        prompt(template, None, "class", "superclass")


def _check_classifier(config: Config, out: Folder, data: Prepared, trains: bool) -> None:
    """Raise `UserError` where timm has no such model, or no weights to start from."""
    from diffmix.classifier.model import build_model, check_input_size, describe

    class_names = data.train.class_names
    describe(config.train, class_names)
    check_input_size(config.train)
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
