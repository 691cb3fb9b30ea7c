"""The embedded base model: its untrained parts, and the pipeline's folder that is shipped.

The pipeline has the shape of Stable Diffusion and five million parameters.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffmix.nano import data
from diffmix.nano.captions import vocabulary
from diffmix.nano.tokenizer import write_tokenizer

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
"""The noise schedule of Stable Diffusion."""
TEXT_WIDTH, TEXT_LENGTH = 128, 32
"""Width of the text encoder, and the number of tokens in a prompt."""
LATENT_SHAPE = (4, data.RESOLUTION // 4, data.RESOLUTION // 4)
"""Channels, height and width."""


def build_vae() -> AutoencoderKL:
    """32x32 RGB in [-1, 1] <-> 8x8 latents of 4 channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        norm_num_groups=16,
        sample_size=data.RESOLUTION,
    )


def build_unet() -> UNet2DConditionModel:
    """The denoiser of 8x8 latents, with cross-attention to the text at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=data.RESOLUTION // 4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 112),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of two layers for the vocabulary of `tokenizer`."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer of the captions into `folder` and load it."""
    return write_tokenizer(vocabulary(), folder, TEXT_LENGTH)


def save(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write the pipeline's folder: float16 safetensors, which load as float32."""
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae),
        text_encoder=copy.deepcopy(text_encoder),
        tokenizer=tokenizer,
        unet=copy.deepcopy(unet),
        scheduler=DPMSolverMultistepScheduler(
            **SCHEDULE, algorithm_type="dpmsolver++", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    # Loaded without a dtype, a text encoder takes that of its configuration: it would be float16
    # beside a float32 U-Net.
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
    # The path of an earlier result must not be published.
    for part in ("unet", "vae"):
        config = folder / part / "config.json"
        kept = json.loads(config.read_text())
        kept.pop("_name_or_path", None)
        config.write_text(json.dumps(kept, indent=2) + "\n")
    build_tokenizer(folder / "tokenizer")
