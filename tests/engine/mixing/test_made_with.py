"""How mixes are made is decided once in a run, kept, and noted where a mixer does otherwise.

Covers `diffmix/generator/device/measured.py` too.
"""

import json
import os

import pytest
import torch

from diffmix.config import Config, MixConfig, ModelConfig, PlacementConfig
from diffmix.generator.device import attention, measured
from diffmix.generator.device.measured import made_with_here, made_with_on_cpus, timed_shape
from diffmix.generator.mixer import Mixer
from engine import phases
from engine.mixing import made_with
from engine.mixing.made_with import measure_made_with, settle_made_with
from engine.mixing.store import MixStore
from engine.run import run_mixing
from engine.testing import CopyingMixer, OtherwiseMixer

ON_A_CPU = {
    "device": "cpu",
    "precision": "float32",
    "attention": "sdpa",
    "layout": "nchw",
    "compile": "off",
}
H100 = {**ON_A_CPU, "device": "H100", "precision": "bfloat16", "attention": "cudnn"}


def test_what_is_said_beforehand_is_what_the_mixer_says(tiny_model, tiny_real):
    mix = MixConfig(strategy="real-mix", num_inference_steps=4)
    mixer = Mixer(tiny_model, mix, tiny_real.class_names, tiny_real.superclass)
    assert made_with_here(tiny_model, mix) == mixer.made_with == ON_A_CPU
    half = ModelConfig(precision="bf16", compile=True, compile_scope="unet")
    assert made_with_on_cpus(half) == {**ON_A_CPU, "precision": "bfloat16", "compile": "unet"}


def test_on_a_gpu_the_architecture_alone_is_timed(tiny_model, monkeypatch):
    """With a stand-in for the device: random weights of the base's architecture on the CPU."""
    seen = {}

    def choose(unet, choice, shape):
        seen.update(shape=shape, dtype=unet.dtype, choice=choice)
        with torch.inference_mode():
            unet(torch.zeros(shape, dtype=unet.dtype), 1, **attention.some_conditions(unet, 6))
        return "cudnn"

    monkeypatch.setattr(measured, "device_and_dtype", lambda _: ("cpu:0", torch.bfloat16))
    monkeypatch.setattr(measured, "choose_attention", choose)
    monkeypatch.setattr(measured, "faster_layout", lambda unet, shape, kernels: "nchw")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    assert made_with_here(tiny_model, MixConfig(batch=3)) == H100
    assert seen == {"shape": (6, 4, 8, 8), "dtype": torch.bfloat16, "choice": "auto"}
    unet = {"in_channels": 4, "sample_size": 64}
    shape = timed_shape(unet, ModelConfig(resolution=768), MixConfig(guidance_scale=1.0), 16)
    assert shape == (16, 4, 96, 96)


@pytest.fixture
def store(tmp_path):
    made = MixStore(str(tmp_path / "mixes"))
    made.bind({"plan": {"seed": 1}, "class_names": ["a"]})
    return made


def test_it_is_kept_beside_the_identity(store):
    assert store.made_with == {}
    store.keep_made_with(H100)
    assert store.made_with == H100
    assert store.identity == {"plan": {"seed": 1}, "class_names": ["a"]}
    store.bind({"plan": {"seed": 1}, "class_names": ["a"]})  # another GPU is not another plan
    assert store.made_with == H100


def test_a_run_settles_it_once(store, monkeypatch):
    monkeypatch.setattr(made_with, "measure_made_with", lambda config: H100)
    settle_made_with(Config(), store, chunks=0)
    assert store.made_with == {}, "nothing is left to make"
    settle_made_with(Config(), store, chunks=1)
    assert store.made_with == H100
    monkeypatch.setattr(made_with, "measure_made_with", None)
    settle_made_with(Config(), store, chunks=1)


@pytest.mark.usefixtures("cluster")
def test_only_gpus_are_asked(tiny_model, monkeypatch):
    monkeypatch.setattr(made_with, "_measure", lambda config: {"process": os.getpid()})
    config = Config(model=tiny_model, mix=MixConfig(batch=2))
    assert measure_made_with(config) == ON_A_CPU  # logical GPUs
    monkeypatch.setattr(made_with, "has_accelerators", lambda: True)
    one, other = measure_made_with(config), measure_made_with(config)
    assert len({one["process"], other["process"], os.getpid()}) == 3
    on_cpus = Config(model=tiny_model, placement=PlacementConfig(gpus_per_mixer=0))
    assert measure_made_with(on_cpus) == ON_A_CPU


@pytest.mark.usefixtures("cluster")
def test_what_is_made_otherwise_says_so(tmp_path, small_config, monkeypatch):
    monkeypatch.setattr(phases, "build_mixer", CopyingMixer())
    config = small_config(tmp_path, **{"mix.count": 16})
    run_mixing(config)
    store = MixStore(str(tmp_path / "mixes"))
    assert store.made_with == ON_A_CPU
    parts = {file.name: file.read_bytes() for file in (tmp_path / "mixes").glob("part-*")}

    # The same plan is finished on another card that halved its batch.
    for name in sorted(parts)[1:]:
        (tmp_path / "mixes" / name).unlink()
    other = {**H100, "mixes_at_once": 2}
    monkeypatch.setattr(phases, "build_mixer", OtherwiseMixer(other))
    run_mixing(config)
    assert store.part_made_with(0) == ON_A_CPU
    assert all(store.part_made_with(chunk) == other for chunk in range(1, len(parts)))
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (note,) = [event["text"] for event in events if event["event"] == "note"]
    assert "device H100, precision bfloat16, attention cudnn, mixes_at_once 2, unlike" in note

    # A gate that reads and writes a part again keeps what it says.
    store.write(1, store.read(1), "a scorer")
    assert store.part_made_with(1) == other
    # Where a mixer does what the store says, its parts are the same bytes as without all this.
    for name in sorted(parts)[1:]:
        (tmp_path / "mixes" / name).unlink()
    monkeypatch.setattr(phases, "build_mixer", OtherwiseMixer(ON_A_CPU))
    run_mixing(config)
    assert {file.name: file.read_bytes() for file in (tmp_path / "mixes").glob("part-*")} == parts
