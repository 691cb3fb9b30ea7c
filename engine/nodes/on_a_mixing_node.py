"""One call where mixers will run, with what a mixer gets. The wait for such a node is said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from diffmix.config import PlacementConfig
from engine.failures import user_errors
from engine.placement.cluster import MIX_LABEL

log = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 60.0


def on_a_mixing_node(
    name: str, placement: PlacementConfig, work: Callable[..., T], *arguments: object
) -> T:
    """What `work` gives. `name` is the option that it is for. Raises its `UserError`."""
    # One call, one process: its CUDA context would stay on the GPU that a mixer gets next. Ray
    # takes `max_calls` in the decorator alone.
    task = ray.remote(max_calls=1)(work).options(
        name=name,
        num_gpus=placement.gpus_per_mixer,
        num_cpus=placement.cpus_per_mixer,
        label_selector=MIX_LABEL if placement.separate else None,
    )
    (result,) = patiently(name, [task.remote(*arguments)])
    return result


def patiently(name: str, results: Sequence[Any], patience: float = _PATIENCE) -> list:
    """What tasks give. After `patience` seconds a line says what is waited for. Raises their
    `UserError`.
    """
    with user_errors():
        ready, _ = ray.wait(list(results), num_returns=len(results), timeout=patience)
        if len(ready) < len(results):
            log.warning(
                "waiting for %s (%d of %d tasks are done): it is being measured, or its nodes have "
                "not come yet; `ray status` on the head says which.",
                name,
                len(ready),
                len(results),
            )
        return ray.get(list(results))
