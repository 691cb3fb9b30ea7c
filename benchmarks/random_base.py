"""A base model of Stable Diffusion 1.5's architecture with random weights: it costs what the real
one does, without a download.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

VOCABULARY = 49_408


def write_sd15(folder: Path) -> Path:
    """Write it as a diffusers folder of 4 GB. Its tokenizer has CLIP's size and nano's words."""
    import torch
    from diffusers import (
        AutoencoderKL,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = _tokenizer(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )
    # All else is SD 1.5's by default.
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae,
        CLIPTextModel(text),
        tokenizer,
        unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Nano's tokenizer, filled up to CLIP's size with words that never occur."""
    from transformers import CLIPTokenizer

    from diffmix.generator.base_model import NANO_FOLDER

    nano = NANO_FOLDER / "tokenizer"
    vocabulary = json.loads((nano / "vocab.json").read_text(encoding="utf-8"))
    special = ["<|startoftext|>", "<|endoftext|>"]
    words = [word for word in sorted(vocabulary, key=vocabulary.__getitem__) if word not in special]
    unused = VOCABULARY - len(words) - len(special)
    words += [f"unused{number}</w>" for number in range(unused)] + special
    folder.mkdir(parents=True)
    numbers = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "merges.txt").write_bytes((nano / "merges.txt").read_bytes())
    names = {
        "bos_token": special[0],
        "eos_token": special[1],
        "unk_token": special[1],
        "pad_token": special[1],
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**names, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )
    return CLIPTokenizer.from_pretrained(folder)
