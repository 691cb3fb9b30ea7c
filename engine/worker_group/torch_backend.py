"""Torch's process group of the train workers: nccl or gloo, as the workers' devices allow."""

from __future__ import annotations

import dataclasses
from typing import Any

import ray
from ray.train.torch import TorchConfig

from engine.placement.ray_internals import torch_backend

BY_DEVICES = "by devices"
"""`TorchConfig.backend` for `TorchBackend`. For None, Ray's trainer fills in its own choice."""


class TorchBackend(torch_backend()):  # type: ignore[misc]
    """Ray Train's set-up of torch's process group, with the backend chosen on the workers.

    Ray goes by the resource `GPU`, which logical GPUs have too, and would choose nccl on machines
    without CUDA.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        if backend_config.backend == BY_DEVICES:
            backend = choose_backend(worker_group.execute(_devices))
            backend_config = dataclasses.replace(backend_config, backend=backend)
        super().on_start(worker_group, backend_config)


def choose_backend(devices: list[tuple[str, ...]]) -> str:
    """`nccl` where each worker has a GPU of its own, which nccl demands, else `gloo`. `devices` are
    each worker's node and the GPUs that Ray gave it there; empty for a worker without CUDA.
    """
    return "nccl" if all(devices) and len(set(devices)) == len(devices) else "gloo"


def _devices() -> tuple[str, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    context = ray.get_runtime_context()
    return context.get_node_id(), *context.get_accelerator_ids()["GPU"]


@dataclasses.dataclass
class ByDevices(TorchConfig):
    """Ray Train's configuration of `TorchBackend`."""

    backend: str | None = BY_DEVICES

    @property
    def backend_cls(self) -> type:
        return TorchBackend
