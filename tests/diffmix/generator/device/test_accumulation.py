"""fp16 sums, as far as a machine without a GPU can tell."""

import pytest
import torch

from diffmix.config import Config, MixConfig, ModelConfig, replace
from diffmix.config_check import check
from diffmix.errors import UserError
from diffmix.generator.device.accumulation import adding_in_fp16, number_format
from diffmix.generator.device.measured import made_with_here
from diffmix.generator.mixer import Mixer
from diffmix.plan import MixSpec


def is_on() -> bool:
    return torch.backends.cuda.matmul.allow_fp16_accumulation


def test_torchs_switch_is_on_inside_alone():
    with adding_in_fp16(True):
        assert is_on()
        with adding_in_fp16(False):
            assert not is_on()
        assert is_on()
    assert not is_on()


@pytest.mark.parametrize("wanted", [True, False])
def test_the_unet_alone_runs_with_it(tiny_model, wanted, monkeypatch):
    monkeypatch.setattr("diffmix.generator.device.measured.device_and_dtype", _fp16)
    mixer = Mixer(
        replace(tiny_model, fp16_accumulation=wanted),
        MixConfig(strategy="real-gen", num_inference_steps=2),
        ["lynx"],
        "animal",
    )
    seen = []
    mixer.pipe.unet.register_forward_hook(lambda *_: seen.append(is_on()))
    mixer.pipe.vae.decoder.register_forward_hook(lambda *_: seen.append(is_on()))
    spec = MixSpec(mix_id=0, source_id="", source_label=0, target_label=0, strength=1.0, seed=0)
    mixer.mix([spec], [None])
    assert seen == [wanted, wanted, False]
    assert ("added in float16" in mixer.made_with["precision"]) == wanted


def _fp16(precision):
    return "cuda", torch.float16


def test_a_store_says_so(tiny_model, monkeypatch):
    monkeypatch.setattr("diffmix.generator.device.measured.device_and_dtype", _fp16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    chosen = {"attention": "sdpa", "layout": "nhwc", "precision": "fp16"}
    model = ModelConfig(base=tiny_model.base, fp16_accumulation=True, **chosen)
    assert made_with_here(model, MixConfig())["precision"] == "float16, added in float16"
    assert number_format(torch.bfloat16, False) == "bfloat16"


def test_other_precisions_are_refused():
    config = Config(model=ModelConfig(fp16_accumulation=True))
    with pytest.raises(UserError, match=r"--model\.precision is auto, but it must be fp16 with"):
        check(config)
    check(replace(config, model=ModelConfig(fp16_accumulation=True, precision="fp16")))
