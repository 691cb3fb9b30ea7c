import os

import pytest
import torch

from diffmix import devices
from diffmix.devices import inference_device, limit_threads, loader_workers, take_share


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


def shares(monkeypatch) -> list[float]:
    """The memory fractions that are set, on a machine that seems to have a GPU."""
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    )
    return taken


def test_who_has_reserved_no_gpu_takes_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # as Ray leaves it
    taken = shares(monkeypatch)
    take_share(cpus=1, gpus=0)
    assert inference_device() == "cpu"
    assert taken == []


@pytest.mark.parametrize(("gpus", "expected"), [(0.25, [0.25]), (1.0, []), (2.0, [])])
def test_a_part_of_a_gpu_is_a_part_of_its_memory(monkeypatch, gpus, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    taken = shares(monkeypatch)
    take_share(cpus=1, gpus=gpus)
    assert inference_device() == "cuda"
    assert taken == expected


@pytest.mark.parametrize(
    ("cores", "gpus", "expected"), [(16, 1, 15), (200, 8, 16), (8, 4, 2), (24, 2, 11), (4, 0, 3)]
)
def test_images_are_decoded_by_the_cores_that_a_gpu_has(monkeypatch, cores, gpus, expected):
    files = [f"/dev/nvidia{number}" for number in range(gpus)]  # none are seen under WSL
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr(devices, "glob", lambda pattern: files)
    assert loader_workers(None) == expected
    assert loader_workers(5) == 5
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loader_workers(None) == 2
