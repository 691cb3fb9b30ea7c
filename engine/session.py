"""One run's surroundings: its folder, its data, its cluster, its telemetry. Everything cheap is
checked here, first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import ray
import yaml

from diffmix.config import Config, replace, to_dict
from diffmix.config_check import check
from diffmix.datasets.prepare import Prepared, prepare
from diffmix.errors import UserError, reason
from diffmix.plan import make_plan
from diffmix.storage import Folder
from engine import progress
from engine.mixing.batch_size import measure_batch, stored_batch
from engine.mixing.filter import check_gate
from engine.mixing.mix_source import find_composed, plan_of
from engine.mixing.store import MixStore
from engine.placement import cluster
from engine.run_folder import bind_store, find_concept, uses_concept
from engine.telemetry import Telemetry

log = logging.getLogger(__name__)

_SPARE_BYTES = 50_000_000  # checkpoints, the classifier, the concept


@dataclass
class Session:
    """What the phases of a run share. Made by `open_session`, which also closes it."""

    config: Config
    out: Folder
    data: Prepared
    telemetry: Telemetry


def check_inputs(config: Config, trains: bool = False) -> tuple[Folder, Prepared]:
    """Everything that can be known without a cluster: options, the run folder and what it holds,
    every image, the models' names.

    With `trains` also that the classifier's starting weights can be had, which downloads those of
    the hub. Raises `UserError` for the first thing that is wrong. Decodes all images on a first
    run.
    """
    from diffmix.classifier.model import build_model, check_input_size, describe
    from diffmix.generator.base_model import check_base
    from diffmix.generator.concept import prompt
    from diffmix.generator.samplers import check_sampler_lora
    from diffmix.generator.tiny_vae import check_tiny_vae
    from diffmix.personalize.optimizer import check_optimizer

    check(config)
    if not config.out:
        raise UserError("--out is not set: name the folder that the run is to be kept in.")
    if not config.data.train:
        raise UserError(
            "--data.train is not set: name a folder with one sub-folder of images per class, NAME:FOLDER for a published data set, or `nano`."
        )
    out = Folder(config.out).create()
    check_base(config.model)
    check_optimizer(config.personalize)
    check_tiny_vae(config.model.tiny_vae)
    check_sampler_lora(config.mix.sampler_lora)
    for template in (*config.personalize.prompts, config.personalize.initializer):
        prompt(template, None, "class", "superclass")
    data = prepare(config.data, out.uri)
    describe(config.train, data.train.class_names)
    check_input_size(config.train)
    if (
        trains
        and (config.train.pretrained or config.train.checkpoint_path)
        and not (out / "classifier").exists("finished")
    ):
        build_model(
            config.train, len(data.train.class_names)
        )  # workers will; hours later it would be too late to find out
    check_gate(config)
    config = with_stored_batch(config, out)
    if find_composed(out, data.train) is None:
        concept = find_concept(config, out, data.train)
        # Else the concept or the batch is yet to come, and the store with it.
        if (concept or not uses_concept(config)) and config.mix.batch != "auto":
            bind_store(config, out, data.train, concept)
    _check_space(config, out, data)
    return out, data


def with_stored_batch(config: Config, out: Folder) -> Config:
    """`config` with the number that `mix.batch` auto means in the run folder's mix store, if any."""
    batch = stored_batch(out) if config.mix.batch == "auto" else None
    return replace(config, **{"mix.batch": batch}) if batch else config


def _check_space(config: Config, out: Folder, data: Prepared) -> None:
    """Raise `UserError` where a local run folder's disk cannot hold the mixes, going by the size of
    the real images.
    """
    if not out.is_local:
        return
    per_image = os.path.getsize(data.train.path) / max(1, len(data.train))
    store = MixStore((out / "mixes").uri)
    plan = plan_of(config, data.train, store)
    stored = len(
        store.stored_chunks()
    )  # none where mix.batch is still auto, and the plan without chunks
    missing = len(plan) * (1 - stored / plan.num_chunks) if stored else len(plan)
    need = max(0, missing) * per_image + _SPARE_BYTES
    free = shutil.disk_usage(out.path).free
    if free < need:
        raise UserError(
            f"{out.uri} has {free / 1e6:.0f} MB free, but the run needs about {need / 1e6:.0f} MB; free some or choose another --out."
        )


@contextlib.contextmanager
def open_session(
    config: Config,
    command: float | None = None,
    *,
    personalizes: bool = False,
    mixes: bool = False,
    trains: bool = False,
) -> Iterator[Session]:
    """Check everything cheap, connect to the cluster, check its size; then a session whose
    telemetry is collected in a thread.

    `command` is when the command was given, in seconds since 1970; None: now. `personalizes`,
    `mixes` and `trains` say which phases the cluster has to have room for. Where `mixes`, the
    session's `config` has the number that `mix.batch` auto means.
    """
    command = time.time() if command is None else command
    out, data = check_inputs(config, trains)
    config = with_stored_batch(config, out)
    cluster.connect(config)
    if find_composed(out, data.train) is not None:  # all mixes are there
        personalizes = mixes = False
    cluster.preflight(
        config, personalizes=personalizes and uses_concept(config), mixes=mixes, trains=trains
    )
    if mixes and config.mix.batch == "auto":
        batch = measure_batch(config, len(make_plan(config, data.train)))
        config = replace(config, **{"mix.batch": batch})
    out.write(
        "config.yaml", yaml.safe_dump(to_dict(config), allow_unicode=True, sort_keys=False).encode()
    )
    telemetry = Telemetry(out, f"telemetry-{uuid.uuid4().hex[:8]}", command)
    stop = threading.Event()
    display = progress.Display()

    def collect() -> None:
        while not stop.wait(1.0):
            try:
                display.show(telemetry.collect())
            except (
                OSError,
                ray.exceptions.RayError,
            ) as error:  # an object store has bad moments; the next second tries again
                log.warning("The telemetry could not be kept: %s", reason(error))

    thread = threading.Thread(target=collect, daemon=True, name="telemetry")
    thread.start()
    try:
        yield Session(config, out, data, telemetry)
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(Exception):  # the cluster may be what broke
            display.show(telemetry.collect())
        with contextlib.suppress(Exception):
            telemetry.close()
