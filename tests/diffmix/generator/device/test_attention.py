"""The choice of attention kernels, as far as a machine without a GPU can tell."""

from types import SimpleNamespace

import pytest
import torch

from diffmix.errors import UserError
from diffmix.generator.device import attention
from diffmix.generator.device.attention import choose_attention
from diffmix.generator.base_model import load_base

SHAPE = (2, 4, 8, 8)


@pytest.fixture(scope="module")
def pipe(tiny_base):
    from diffmix.config import ModelConfig

    return load_base(ModelConfig(base=str(tiny_base)), "cpu", torch.float32)


def test_a_cpu_runs_sdpa(pipe):
    assert choose_attention(pipe, "auto", SHAPE) == "sdpa"
    assert choose_attention(pipe, "sdpa", SHAPE) == "sdpa"
    assert {type(processor).__name__ for processor in pipe.unet.attn_processors.values()} == {
        "AttnProcessor2_0"
    }


def test_xformers_without_a_gpu_is_refused_in_a_sentence(pipe):
    with pytest.raises(UserError, match=r"--model.attention is xformers, but there is no GPU here"):
        choose_attention(pipe, "xformers", SHAPE)


class GpuUNet:
    """Stands in for a UNet on a GPU; records which kernels are on."""

    device = torch.device("cuda")

    def __init__(self, xformers_works: bool):
        self.kernels = "sdpa"
        self.works = xformers_works

    def enable_xformers_memory_efficient_attention(self):
        if not self.works:
            raise NotImplementedError("No operator found\nfor these inputs")
        self.kernels = "xformers"

    def disable_xformers_memory_efficient_attention(self):
        self.kernels = "sdpa"


@pytest.mark.parametrize(("sdpa", "xformers"), [(2.0, 1.0), (1.0, 2.0)])
def test_auto_keeps_the_faster_on_a_gpu(monkeypatch, caplog, sdpa, xformers):
    unet = GpuUNet(xformers_works=True)
    monkeypatch.setattr(
        attention,
        "_seconds",
        lambda pipe, shape: {"sdpa": sdpa, "xformers": xformers}[unet.kernels],
    )
    with caplog.at_level("INFO"):
        chosen = choose_attention(SimpleNamespace(unet=unet), "auto", SHAPE)
    assert chosen == unet.kernels == ("sdpa" if sdpa < xformers else "xformers")
    assert f"sdpa {sdpa * 1e3:.1f} ms, xformers {xformers * 1e3:.1f} ms" in caplog.text


def test_kernels_that_do_not_run(monkeypatch):
    unet = GpuUNet(xformers_works=False)
    monkeypatch.setattr(attention, "_seconds", lambda pipe, shape: 1.0)
    assert choose_attention(SimpleNamespace(unet=unet), "auto", SHAPE) == unet.kernels == "sdpa"
    with pytest.raises(UserError, match=r"its kernels do not run here \(No operator found\)"):
        choose_attention(SimpleNamespace(unet=unet), "xformers", SHAPE)
