"""The memory layout, as far as a machine without a GPU can tell."""

import pytest
import torch

from diffmix.config import MixConfig, replace
from diffmix.generator.device import layout
from diffmix.generator.device.layout import faster_layout, set_layout
from diffmix.generator.mixer import Mixer


class Part(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(4, 8, 3)

    @property
    def device(self):
        return self.weight.device

    @property
    def is_nhwc(self) -> bool:
        return self.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("choice", "preferred", "device", "expected"),
    [
        ("auto", None, "cpu", "nchw"),
        ("auto", "nhwc", "cpu", "nchw"),
        ("nhwc", None, "cpu", "nhwc"),
        ("auto", None, "cuda", "nhwc"),
        ("auto", "nchw", "cuda", "nchw"),
        ("auto", "of a newer version", "cuda", "nhwc"),
        ("nchw", "nhwc", "cuda", "nchw"),
    ],
)
def test_which_layout_it_is(choice, preferred, device, expected):
    part = Part()
    assert set_layout([part], choice, preferred, device) == expected
    assert part.is_nhwc == (expected == "nhwc")


@pytest.mark.parametrize(
    ("nhwc", "nchw", "expected"),
    [(1.0, 2.0, "nhwc"), (2.0, 1.0, "nchw"), (1.0, 0.99, "nhwc")],
)
def test_the_faster_one_is_taken(monkeypatch, caplog, nhwc, nchw, expected):
    def seconds(part, shape, kernels):
        return nhwc if part.is_nhwc else nchw

    monkeypatch.setattr(layout, "call_seconds", seconds)
    with caplog.at_level("INFO"):
        assert faster_layout(Part(), (2, 4, 8, 8), "sdpa") == expected
    assert f"nhwc {nhwc * 1e3:.1f} ms, nchw {nchw * 1e3:.1f} ms" in caplog.text


def test_mixes_are_the_same_in_both(tiny_model, tiny_real):
    from benchmarks.mixer_throughput import psnr, tasks

    made = []
    for name in ("nchw", "nhwc"):
        mix = MixConfig(strategy="real-mix", num_inference_steps=4)
        model = replace(tiny_model, layout=name)
        mixer = Mixer(model, mix, tiny_real.class_names, tiny_real.superclass)
        assert mixer.made_with["layout"] == name
        specs, sources = tasks(3, 32, 0)
        made.append(mixer.mix([replace(spec, target_label=0) for spec in specs], sources))
    assert min(psnr(one, other) for one, other in zip(*made, strict=True)) > 40
