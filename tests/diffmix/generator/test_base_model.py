"""The base model: found, checked, loaded, told apart."""

import json
import shutil

import pytest
import torch

from diffmix.config import ModelConfig
from diffmix.errors import UserError
from diffmix.generator.base_model import (
    base_fingerprint,
    base_path,
    check_base,
    device_and_dtype,
    load_base,
    native_resolution,
    to_tensor,
)


def test_a_local_folder_loads(tiny_model):
    pipe = load_base(tiny_model, "cpu", torch.float32)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert pipe.safety_checker is None
    assert native_resolution(pipe) == 32
    assert {parameter.dtype for parameter in pipe.unet.parameters()} == {torch.float32}


def test_a_path_that_is_no_base_model_is_refused_in_a_sentence(tmp_path, tiny_base):
    with pytest.raises(UserError, match=r"There is no base model at \./nothing"):
        base_path(ModelConfig(base="./nothing"))
    check_base(ModelConfig(base=str(tiny_base)))
    with pytest.raises(UserError, match="is not a diffusers pipeline"):
        base_path(ModelConfig(base=str(tmp_path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="There is no base model"):
        base_path(ModelConfig(base=str(tmp_path / "file")))

    half = tmp_path / "half"
    shutil.copytree(tiny_base, half)
    shutil.rmtree(half / "vae")
    with pytest.raises(UserError, match="vae/ is missing"):
        base_path(ModelConfig(base=str(half)))
    index = json.loads((tiny_base / "model_index.json").read_text())
    (half / "model_index.json").write_text(
        json.dumps({key: value for key, value in index.items() if key != "unet"})
    )
    with pytest.raises(UserError, match="it has no unet"):
        base_path(ModelConfig(base=str(half)))
    (half / "model_index.json").write_text(
        json.dumps({**index, "text_encoder_2": ["transformers", "CLIPTextModel"]})
    )
    shutil.copytree(tiny_base / "vae", half / "vae")
    with pytest.raises(
        UserError,
        match=r"not a Stable Diffusion 1\.x, 2\.x or XL pipeline \(it has no tokenizer_2\)",
    ):
        base_path(ModelConfig(base=str(half)))


def test_a_hub_model_that_cannot_be_had_is_refused_in_a_sentence():
    model = ModelConfig(base="somebody/no-such-model", revision="v2")
    assert base_path(model) == "somebody/no-such-model"
    for use in (check_base, lambda model: load_base(model, "cpu", torch.float32)):
        with pytest.raises(
            UserError,
            match="somebody/no-such-model at revision v2 is no local folder and cannot be loaded",
        ):
            use(model)


def test_broken_weights_are_refused_in_a_sentence(tmp_path, tiny_base):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_base(ModelConfig(base=str(broken)), "cpu", torch.float32)


def test_the_fingerprint_follows_the_contents_and_not_the_place(tmp_path, tiny_base, tiny_model):
    there = tmp_path / "elsewhere"
    shutil.copytree(tiny_base, there)
    (there / "README.md").write_text("notes")
    assert base_fingerprint(ModelConfig(base=str(there))) == base_fingerprint(tiny_model)
    weights = there / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert base_fingerprint(ModelConfig(base=str(there))) != base_fingerprint(tiny_model)
    assert base_fingerprint(ModelConfig(base="a/b")) == "a/b@main"
    assert base_fingerprint(ModelConfig(base="a/b", revision="fp16")) == "a/b@fp16"


def test_large_files_are_told_apart_by_samples(tmp_path, tiny_base, tiny_model, monkeypatch):
    from diffmix.generator import base_model

    monkeypatch.setattr(base_model, "_WHOLE_FILE", 1000)
    monkeypatch.setattr(base_model, "_SAMPLE", 100)
    before = base_fingerprint(tiny_model)
    there = tmp_path / "elsewhere"
    shutil.copytree(tiny_base, there)
    weights = there / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert base_fingerprint(ModelConfig(base=str(there))) != before


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU gives")
def test_device_and_precision_on_cpu():
    assert device_and_dtype("auto") == ("cpu", torch.float32)
    assert device_and_dtype("bf16") == ("cpu", torch.bfloat16)
    with pytest.raises(UserError, match=r"--model.precision is fp16"):
        device_and_dtype("fp16")


def test_pixels():
    from PIL import Image

    tensor = to_tensor(Image.new("RGB", (10, 20), (255, 0, 127)), 8)
    assert tensor.shape == (3, 8, 8)
    assert tensor.dtype == torch.float32
    assert tensor[:, 0, 0].tolist() == pytest.approx([1.0, -1.0, -0.0039], abs=1e-3)


def test_a_base_in_a_bucket_is_fetched_once_and_only_its_parts(
    bucket_server, tiny_base, tmp_path, monkeypatch
):
    import boto3

    monkeypatch.setenv("DIFFMIX_CACHE", str(tmp_path / "cache"))
    files = {path.relative_to(tiny_base): path for path in tiny_base.rglob("*") if path.is_file()}
    client = boto3.client("s3")
    for name, path in files.items():
        client.put_object(Bucket="mixes", Key=f"models/tiny/{name}", Body=path.read_bytes())
    client.put_object(Bucket="mixes", Key="models/tiny/pruned.ckpt", Body=b"the same weights")
    bucket_server.log.clear()
    model = ModelConfig(base="s3://mixes/models/tiny/", precision="fp32")
    check_base(model)
    assert base_fingerprint(model) == base_fingerprint(ModelConfig(base=str(tiny_base)))
    pipe = load_base(model, "cpu", torch.float32)
    assert native_resolution(pipe) == 32
    read = [path for method, path, _ in bucket_server.log if method == "GET"]
    read = [path for path in read if path.startswith("/mixes/models/tiny/")]
    assert sorted(read) == sorted(f"/mixes/models/tiny/{name}" for name in files)
    with pytest.raises(UserError, match="s3://mixes/models/none"):
        check_base(ModelConfig(base="s3://mixes/models/none"))
