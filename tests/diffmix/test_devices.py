import os

import pytest
import torch

from diffmix.devices import inference_device, limit_threads


@pytest.mark.parametrize("available", [True, False])
def test_the_device_is_the_one_that_torch_sees(monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert inference_device() == ("cuda" if available else "cpu")


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (2.0, 2), (1000.0, 4)])
def test_threads_are_the_reserved_cpus_within_the_machine(monkeypatch, cpus, threads):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    limit_threads(cpus)
    assert chosen == [threads]
