"""Tensors that go to a device, with a stand-in for a GPU's tensor."""

import torch

from diffmix.generator.device.transfer import sent


def test_on_a_cpu_it_is_the_same_tensor():
    tensor = torch.arange(3)
    assert sent(tensor, "cpu") is tensor


def test_a_gpu_gets_it_from_pinned_memory_without_waiting(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *to, **how: calls.append((to, how)) or self
    )
    sent(torch.zeros(2), torch.device("cuda", 0))
    assert calls == ["pinned", ((torch.device("cuda", 0),), {"non_blocking": True})]
