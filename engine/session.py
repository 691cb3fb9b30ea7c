"""One run's surroundings: its folder, its data, its cluster, its telemetry. Everything cheap is checked here, first."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from diffmix.config import Config, check, to_dict
from diffmix.datasets.prepare import Prepared, prepare
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine import cluster, progress
from engine.artifacts import bind_store, find_concept, uses_concept
from engine.gate import check_gate
from engine.stages import make_plan
from engine.store import MixStore
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

    @property
    def checkpoints(self) -> str:
        return (self.out / "checkpoints").uri


def check_inputs(config: Config) -> tuple[Folder, Prepared]:
    """Everything that can be known without a cluster: options, the run folder and what it holds, every image, the models' names.

    Raises `UserError` for the first thing that is wrong. Decodes all images on a first run.
    """
    from diffmix.base_model import check_base
    from diffmix.classifier.model import describe
    from diffmix.concept import prompt

    check(config)
    if not config.out:
        raise UserError("--out is not set: name the folder that the run is to be kept in.")
    if not config.data.train:
        raise UserError(
            "--data.train is not set: name a folder with one sub-folder of images per class, NAME:FOLDER for a published data set, or `nano`."
        )
    out = Folder(config.out).create()
    check_base(config.model)
    for template in (*config.personalize.prompts, config.personalize.initializer):
        prompt(template, None, "class", "superclass")
    data = prepare(config.data, out.uri)
    describe(config.train, data.train.class_names)
    check_gate(config)
    concept = find_concept(config, out, data.train)
    if concept or not uses_concept(config):  # else the concept is yet to come, and the store with it
        bind_store(config, out, data.train, concept)
    _check_space(config, out, data)
    return out, data


def _check_space(config: Config, out: Folder, data: Prepared) -> None:
    """Raise `UserError` where a local run folder's disk cannot hold the mixes, going by the size of the real images."""
    if not out.is_local:
        return
    per_image = os.path.getsize(data.train.path) / max(1, len(data.train))
    stored = len(MixStore((out / "mixes").uri).stored_chunks()) * config.mix.batch
    planned = len(make_plan(config, data.train))
    need = max(0, planned - stored) * per_image + _SPARE_BYTES
    free = shutil.disk_usage(out.path).free
    if free < need:
        raise UserError(
            f"{out.uri} has {free / 1e6:.0f} MB free, but the run needs about {need / 1e6:.0f} MB; free some or choose another --out."
        )


@contextlib.contextmanager
def open_session(config: Config) -> Iterator[Session]:
    """Check everything cheap, connect to the cluster, check its size; then a session whose telemetry is collected in a thread."""
    out, data = check_inputs(config)
    cluster.connect(config)
    cluster.preflight(config)
    out.write("config.yaml", yaml.safe_dump(to_dict(config), allow_unicode=True, sort_keys=False).encode())
    telemetry = Telemetry(out, f"telemetry-{uuid.uuid4().hex[:8]}")
    stop = threading.Event()
    display = progress.Display()

    def collect() -> None:
        while not stop.wait(1.0):
            display.show(telemetry.collect())

    thread = threading.Thread(target=collect, daemon=True, name="telemetry")
    thread.start()
    try:
        yield Session(config, out, data, telemetry)
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(Exception):  # the cluster may be what broke
            display.show(telemetry.collect())
            telemetry.close()
