"""Which backend torch's process group gets. Real groups are in tests/e2e."""

from types import SimpleNamespace

import pytest
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from engine.worker_group.torch_backend import BY_DEVICES, ByDevices, TorchBackend, choose_backend


@pytest.mark.parametrize(
    ("devices", "backend"),
    [
        ([("a", "0"), ("a", "1"), ("b", "0")], "nccl"),
        ([("a", "0"), ("a", "0")], "gloo"),  # two workers on one GPU
        ([("a", "0"), ()], "gloo"),
        ([()], "gloo"),
    ],
)
def test_nccl_is_for_workers_with_a_gpu_each(devices, backend):
    assert choose_backend(devices) == backend


def test_rays_trainer_leaves_the_choice_to_the_workers(monkeypatch):
    """A worker group without CUDA, whose resources say GPU, as with logical GPUs."""
    config = ByDevices()
    TorchTrainer(print, torch_config=config, scaling_config=ScalingConfig(use_gpu=True))
    assert config.backend == BY_DEVICES
    assert config.backend_cls is TorchBackend
    heard = []
    monkeypatch.setattr(
        TorchBackend.__base__, "on_start", lambda self, group, config: heard.append(config.backend)
    )
    TorchBackend().on_start(SimpleNamespace(execute=lambda ask: [ask(), ask()]), config)
    assert heard == ["gloo"]
    assert config.backend == BY_DEVICES  # a restart may find other workers
