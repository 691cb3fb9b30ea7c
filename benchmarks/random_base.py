"""Base models of Stable Diffusion's architectures with random weights: they cost what the real ones
do, without a download.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTokenizer

VOCABULARY = 49_408
_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


@contextmanager
def making(dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Iterator[None]:
    """Models that are made inside have random weights in `dtype` on `device` from the start."""
    import torch

    usual = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(usual)


def sd15_unet() -> Any:
    """The UNet of Stable Diffusion 1.5."""
    from diffusers import UNet2DConditionModel

    # All else is SD 1.5's by default.
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sd15_vae(**changes: Any) -> Any:
    """The VAE of Stable Diffusion 1.5; that of SDXL has other settings."""
    from diffusers import AutoencoderKL

    usual: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 512,
    }
    return AutoencoderKL(**{**usual, **changes})


def sdxl_unet(small: bool = False) -> Any:
    """The UNet of SDXL; `small` is one of no size with the same kinds of blocks."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8 if small else 128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 16) if small else (320, 640, 1280),
        transformer_layers_per_block=(1, 1, 1) if small else (1, 2, 10),
        attention_head_dim=(2, 2, 4) if small else (5, 10, 20),
        norm_num_groups=4 if small else 32,
        cross_attention_dim=32 if small else 2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8 if small else 256,
        projection_class_embeddings_input_dim=6 * 8 + 16 if small else 6 * 256 + 1280,
    )


def write_sd15(folder: Path, dtype: torch.dtype | None = None, device: str = "cpu") -> Path:
    """Write Stable Diffusion 1.5 as a diffusers folder: 4 GB, or half in a half precision. Its
    tokenizer has CLIP's size and nano's words. The weights are made on `device`.
    """
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    tokenizer = _tokenizer(folder / "tokenizer")
    with making(dtype or torch.float32, device):
        vae, text = sd15_vae(), _text_model(tokenizer, 768, 12, 12)
        unet = sd15_unet()
    pipe = StableDiffusionPipeline(
        vae,
        text,
        tokenizer,
        unet,
        PNDMScheduler(**_SCHEDULE, skip_prk_steps=True),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def write_sdxl(
    folder: Path, dtype: torch.dtype | None = None, device: str = "cpu", small: bool = False
) -> Path:
    """The same for SDXL: 14 GB, or half in a half precision. `small` writes a model of no size, for
    images of 32 px.
    """
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizers = [_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    with making(dtype or torch.float32, device):
        if small:
            vae = sd15_vae(
                block_out_channels=(8, 8, 8),
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                layers_per_block=1,
                norm_num_groups=4,
                sample_size=32,
                scaling_factor=0.13025,
            )
            text = _text_model(tokenizers[0], 16, 2, 2)
            second = _text_model(tokenizers[1], 16, 2, 2, projection=16)
        else:
            vae = sd15_vae(sample_size=1024, scaling_factor=0.13025)
            text = _text_model(tokenizers[0], 768, 12, 12)
            second = _text_model(tokenizers[1], 1280, 32, 20, projection=1280)
        unet = sdxl_unet(small)
    pipe = StableDiffusionXLPipeline(
        vae,
        text,
        second,
        *tokenizers,
        unet,
        EulerDiscreteScheduler(**_SCHEDULE),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def _text_model(
    tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, projection: int | None = None
) -> Any:
    """CLIP's text encoder, or with `projection` the one with a projection of its pooled output."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({} if projection is None else {"projection_dim": projection, "hidden_act": "gelu"}),
    )
    return CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)


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
