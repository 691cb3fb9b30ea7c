"""The choice of attention kernels, as far as a machine without a GPU can tell."""

import pytest
import torch

from diffmix.config import ModelConfig
from diffmix.errors import UserError
from diffmix.generator.base_model import load_base
from diffmix.generator.device import attention
from diffmix.generator.device.attention import choose_attention, kernels, some_conditions

SHAPE = (2, 4, 8, 8)


@pytest.fixture(scope="module")
def unet(tiny_base):
    return load_base(ModelConfig(base=str(tiny_base)), "cpu", torch.float32).unet


def test_a_cpu_runs_sdpa(unet):
    assert choose_attention(unet, "auto", SHAPE) == "sdpa"
    assert choose_attention(unet, "auto", SHAPE, preferred="xformers") == "sdpa"
    assert choose_attention(unet, "sdpa", SHAPE) == "sdpa"
    assert {type(processor).__name__ for processor in unet.attn_processors.values()} == {
        "AttnProcessor2_0"
    }


@pytest.mark.parametrize("choice", ["xformers", "cudnn"])
def test_a_gpus_kernels_without_a_gpu_are_refused_in_a_sentence(unet, choice):
    with pytest.raises(UserError, match=f"--model.attention is {choice}, but there is no GPU here"):
        choose_attention(unet, choice, SHAPE)


class GpuUNet:
    """Stands in for a UNet on a GPU; records which processors are on."""

    device = torch.device("cuda")

    def __init__(self, xformers_works: bool):
        self.processors = "usual"
        self.works = xformers_works

    def enable_xformers_memory_efficient_attention(self):
        if not self.works:
            raise NotImplementedError("No operator found\nfor these inputs")
        self.processors = "xformers"

    def disable_xformers_memory_efficient_attention(self):
        self.processors = "usual"


def timed(monkeypatch, **seconds):
    """Calls of the UNet take so many seconds; an exception is raised."""
    asked = []

    def answer(unet, shape, name):
        assert (unet.processors == "xformers") == (name == "xformers")
        asked.append(name)
        if isinstance(seconds[name], Exception):
            raise seconds[name]
        return seconds[name]

    monkeypatch.setattr(attention, "call_seconds", answer)
    return asked


@pytest.mark.parametrize(
    ("sdpa", "cudnn", "xformers", "chosen"),
    [
        (2.0, 1.5, 1.0, "xformers"),
        (2.0, 1.0, 1.5, "cudnn"),
        (1.0, 2.0, 2.0, "sdpa"),
        (1.0, 0.99, 2.0, "sdpa"),  # a hundredth is noise
        (1.0, RuntimeError("No available kernel"), 0.5, "xformers"),
        (1.0, 0.5, RuntimeError("a head's size is no multiple of 8"), "cudnn"),
        (1.0, RuntimeError("none"), torch.OutOfMemoryError("none"), "sdpa"),
    ],
)
def test_auto_keeps_the_fastest_on_a_gpu(monkeypatch, caplog, sdpa, cudnn, xformers, chosen):
    unet = GpuUNet(xformers_works=True)
    asked = timed(monkeypatch, sdpa=sdpa, cudnn=cudnn, xformers=xformers)
    with caplog.at_level("INFO"):
        assert choose_attention(unet, "auto", SHAPE) == chosen
    assert asked == ["sdpa", "cudnn", "xformers"]
    assert (unet.processors == "xformers") == (chosen == "xformers")
    assert f"sdpa {sdpa * 1e3:.1f} ms" in caplog.text
    assert f"using {chosen}" in caplog.text


def test_xformers_that_does_not_run_leaves_the_others(monkeypatch, caplog):
    unet = GpuUNet(xformers_works=False)
    timed(monkeypatch, sdpa=1.0, cudnn=0.5, xformers=0.1)
    with caplog.at_level("INFO"):
        assert choose_attention(unet, "auto", SHAPE) == "cudnn"
    assert unet.processors == "usual"
    assert "xformers does not run here (No operator found)" in caplog.text
    with pytest.raises(UserError, match=r"its kernels do not run here \(No operator found\)"):
        choose_attention(unet, "xformers", SHAPE)
    assert unet.processors == "usual"


def test_a_runs_choice_is_not_measured_again(monkeypatch):
    asked = timed(monkeypatch, sdpa=1.0, cudnn=9.0, xformers=9.0)
    assert choose_attention(GpuUNet(True), "auto", SHAPE, preferred="cudnn") == "cudnn"
    assert choose_attention(GpuUNet(True), "auto", SHAPE, preferred="xformers") == "xformers"
    assert asked == ["cudnn", "xformers"]  # whether they run
    assert choose_attention(GpuUNet(True), "auto", SHAPE, preferred="sdpa") == "sdpa"
    assert len(asked) == 2


def test_a_runs_choice_that_this_gpu_lacks_is_sdpa_and_said(monkeypatch, caplog):
    timed(monkeypatch, sdpa=1.0, cudnn=RuntimeError("no kernel image"), xformers=1.0)
    assert choose_attention(GpuUNet(True), "auto", SHAPE, preferred="cudnn") == "sdpa"
    assert choose_attention(GpuUNet(False), "auto", SHAPE, preferred="xformers") == "sdpa"
    assert "attention cudnn does not run here (no kernel image); using sdpa" in caplog.text
    assert "attention xformers does not run here (No operator found); using sdpa" in caplog.text


def test_cudnn_comes_first_inside_and_not_after():
    from torch.nn.attention import _cur_sdpa_kernel_backends

    before = _cur_sdpa_kernel_backends(with_priority=True)
    with kernels("cudnn"):
        inside = _cur_sdpa_kernel_backends(with_priority=True)
    assert [backend.name for backend in inside][:2] == ["CUDNN_ATTENTION", "FLASH_ATTENTION"]
    assert _cur_sdpa_kernel_backends(with_priority=True) == before
    with kernels("sdpa"):
        assert _cur_sdpa_kernel_backends(with_priority=True) == before


@pytest.mark.parametrize("xl", [False, True])
def test_a_unet_takes_the_conditions_that_it_is_timed_with(unet, xl):
    from benchmarks.random_base import sdxl_unet

    one = sdxl_unet(small=True) if xl else unet
    with torch.inference_mode():
        made = one(torch.zeros(SHAPE), 1, **some_conditions(one, 2), return_dict=False)[0]
    assert made.shape == SHAPE
