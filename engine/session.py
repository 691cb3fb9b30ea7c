"""What the phases of a run share: its folder, its data, its cluster, its telemetry."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray

from diffmix.config import Config, replace
from diffmix.config_check import check
from diffmix.datasets.prepare import Prepared
from diffmix.errors import reason
from diffmix.storage import Folder
from engine import lease
from engine.listeners import Hears, as_listeners, make_listeners
from engine.mixing.batch_size import with_measured_batch
from engine.mixing.mix_source import MixSource
from engine.nodes.ask_ahead import AskAhead
from engine.nodes.shared_folder import Marker, mark
from engine.placement import cluster
from engine.placement.capacity import Capacity
from engine.placement.preflight import check_inputs
from engine.placement.room import wait_for_room
from engine.run_folder import write_config
from engine.telemetry import Telemetry
from engine.training.pool import sweep

log = logging.getLogger(__name__)

_COLLECT_SECONDS = 1.0
_USAGE_SECONDS = 5.0
_LIFE_SECONDS = 30.0
"""A run that goes on records something at least this often: who watches it can tell."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the phases of a run share. Made by `open_session`, which also closes it."""

    config: Config
    out: Folder
    data: Prepared
    source: MixSource
    """Where the run's mixes come from."""
    telemetry: Telemetry
    capacity: Capacity
    """What the job may count on of the cluster."""
    ahead: AskAhead
    """The places of mixers that are asked for before personalization ends."""
    marker: Marker | None
    """By which workers know the run folder; None for a URI."""


@contextlib.contextmanager
def open_session(
    config: Config,
    command: float | None = None,
    listeners: Sequence[Hears] = (),
    *,
    personalizes: bool = False,
    mixes: bool = False,
    trains: bool = False,
) -> Iterator[Session]:
    """Take the run folder's lease, check everything cheap, connect to the cluster, check its size;
    then a session whose events reach the listeners every second.

    `command` is the moment at which the command was given, in seconds since 1970; None: now.
    `listeners` hear the run's events beside those of `run.listeners`. `personalizes`, `mixes` and
    `trains` say which phases the cluster has to have room for. Where `mixes`, the session's
    configuration has the number that `mix.batch auto` means.
    """
    command = time.time() if command is None else command
    with contextlib.ExitStack() as stack:
        check(config)
        if config.out:
            stack.enter_context(lease.held(Folder(config.out).create()))
        sweep()
        stack.callback(sweep)
        yield stack.enter_context(
            _opened(
                config, command, listeners, personalizes=personalizes, mixes=mixes, trains=trains
            )
        )


@contextlib.contextmanager
def _opened(
    config: Config,
    command: float,
    listeners: Sequence[Hears],
    *,
    personalizes: bool,
    mixes: bool,
    trains: bool,
) -> Iterator[Session]:
    """`open_session`, in a run folder that this process holds."""
    inputs = check_inputs(config, trains)
    config, source = inputs.config, inputs.source
    cluster.connect(config)
    mixes = mixes and source.makes_mixes
    personalizes = personalizes and source.uses_concept(config)
    capacity = wait_for_room(config, personalizes=personalizes, mixes=mixes, trains=trains)
    marker = mark(inputs.out)
    if mixes:
        image_bytes = float(inputs.data.train.sizes.mean())
        config = with_measured_batch(config, len(source.plan(config)), image_bytes)
    write_config(inputs.out, replace(config, **{"run.repair": False}))  # a resumed run has no need
    name = f"telemetry-{uuid.uuid4().hex[:8]}"
    heard_by = [*make_listeners(config, inputs.out), *as_listeners(listeners)]
    telemetry = Telemetry(inputs.out, name, command, heard_by)
    telemetry.record("plan", **_planned(config, source, mixes))
    ahead = AskAhead(config.placement, capacity if mixes else Capacity(nodes=[], grows=False))
    with _collecting(telemetry), contextlib.closing(ahead):
        yield Session(
            config=config,
            out=inputs.out,
            data=inputs.data,
            source=source,
            telemetry=telemetry,
            capacity=capacity,
            ahead=ahead,
            marker=marker,
        )


def _planned(config: Config, source: MixSource, mixes: bool) -> dict:
    """What the run is to do, in numbers, for those who watch it: `planned` and `stored` mixes, and
    `epochs`.
    """
    chunks = source.store.stored_chunks()
    planned = stored = 0
    if mixes or chunks:
        plan = source.plan(config)
        planned = len(plan)
        stored = sum(len(plan.chunk_ids(chunk)) for chunk in chunks if chunk < plan.num_chunks)
    return {"planned": planned, "stored": stored, "epochs": config.train.epochs}


@contextlib.contextmanager
def _collecting(telemetry: Telemetry) -> Iterator[None]:
    """Collect events in a thread, once a second, and close the telemetry at the end."""
    stop, usage = threading.Event(), _Usage()

    def collect() -> None:
        while not stop.wait(_COLLECT_SECONDS):
            try:
                usage.record(telemetry)
                telemetry.collect()
            except ray.exceptions.RayError as error:  # the next second tries again
                log.warning("Events could not be fetched: %s", reason(error))

    thread = threading.Thread(target=collect, daemon=True, name="telemetry")
    thread.start()
    outcome, why = "done", ""
    try:
        yield
    except BaseException as error:
        outcome = "failed" if isinstance(error, Exception) else "interrupted"
        why = "" if outcome == "interrupted" else reason(error)
        raise
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(Exception):  # the cluster may be what broke
            telemetry.collect()
        telemetry.record("end", outcome=outcome, error=why)
        with contextlib.suppress(Exception):
            telemetry.close()


class _Usage:
    """Records how many of the cluster's GPUs are in use: when that changes, and else twice a minute
    as a sign of life. Owned by the collecting thread.
    """

    def __init__(self) -> None:
        self._asked = self._recorded = 0.0
        self._last: tuple[float, float] | None = None

    def record(self, telemetry: Telemetry) -> None:
        now = time.monotonic()
        if now - self._asked < _USAGE_SECONDS:
            return
        self._asked = now
        every = ray.cluster_resources().get("GPU", 0.0)
        used = every - ray.available_resources().get("GPU", 0.0)
        if (used, every) != self._last or now - self._recorded >= _LIFE_SECONDS:
            self._recorded, self._last = now, (used, every)
            telemetry.record("gpus", used=used, all=every)
