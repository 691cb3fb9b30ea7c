"""From the hub no pickled weights are taken, and open_clip reads its own without running code."""

import inspect

import diffusers
import pytest
import torch
import transformers

from diffmix.config import ModelConfig
from diffmix.errors import UserError
from diffmix.gates import clip_model
from diffmix.generator import base_model


@pytest.fixture
def asked(monkeypatch):
    """The options with which a model is asked for. It is never there."""
    found = {}

    def refuse(path, **options):
        found.update(options)
        raise OSError("no connection")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", refuse)
    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", refuse)
    monkeypatch.setattr(base_model, "_index", lambda model: {})
    return found


def test_from_the_hub_only_safetensors_are_taken(asked):
    with pytest.raises(UserError):
        base_model.load_base(ModelConfig(base="someone/a-model"), "cpu", torch.float32)
    assert asked.pop("use_safetensors") is True
    with pytest.raises(OSError, match="no connection"):
        clip_model._load_transformers("someone/a-clip", "cpu")
    assert asked["use_safetensors"] is True


def test_open_clip_unpickles_weights_only():
    open_clip = pytest.importorskip("open_clip")
    options = inspect.signature(open_clip.create_model_from_pretrained).parameters
    assert options["weights_only"].default is True
