"""A Stable-Diffusion-shaped pipeline with random weights, small enough to run in milliseconds, and a data set to go with it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

CLASS_NAMES = ["Red_Fox", "grey wolf", "Füchslein 狐", "lynx"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A saved pipeline: 32 px images, 4 x 8 x 8 latents, byte-level tokenizer."""
    import torch
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("tiny") / "base"
    torch.manual_seed(0)
    letters = sorted(ByteLevel.alphabet())
    symbols = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    vocab, merges = folder.parent / "vocab.json", folder.parent / "merges.txt"
    vocab.write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    merges.write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(_tokenizer_folder(folder.parent, vocab, merges))
    text_config = CLIPTextConfig(
        vocab_size=len(symbols),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.5,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    with torch.no_grad():  # random weights hardly look at the prompt and paint everything grey: make both matter
        vae.decoder.conv_out.weight *= 3
        vae.quant_conv.bias[4:] = -2.0
        for name, parameter in unet.named_parameters():
            if "attn2" in name and name.endswith("weight"):
                parameter *= 4
    scheduler = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    pipe = StableDiffusionPipeline(vae, CLIPTextModel(text_config), tokenizer, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.save_pretrained(folder)
    return folder


def _tokenizer_folder(folder: Path, vocab: Path, merges: Path) -> Path:
    special = {"unk_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
    assert vocab.parent == merges.parent == folder
    return folder


@pytest.fixture(scope="session")
def tiny_real(tmp_path_factory):
    """A `RealSet` of 12 pictures in 4 classes, most of 32 px; number 5 is 48 x 40."""
    from PIL import Image

    from diffmix.datasets.real import Example, RealSet

    rng = np.random.default_rng(0)
    examples = []
    for i in range(12):
        size = (48, 40) if i == 5 else (32, 32)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
        examples.append(Example(f"image/{i}.png", file.getvalue(), i % 4))
    return RealSet.write(str(tmp_path_factory.mktemp("real") / "train.arrow"), examples, CLASS_NAMES, "animal")


@pytest.fixture
def tiny_model(tiny_base):
    from diffmix.config import ModelConfig

    return ModelConfig(base=str(tiny_base), precision="fp32")
