"""Base models of other kinds, as small as `tiny_base`, with its VAE and vocabulary."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory, tiny_base) -> Path:
    """Shaped like Stable Diffusion 2.1.

    It predicts v and pads with `!`; its text encoder has another width, and a projection size.
    """
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(1)
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer", pad_token="!")
    text = CLIPTextConfig(
        **_text(tokenizer),
        hidden_size=48,
        num_hidden_layers=3,
        projection_dim=24,
        hidden_act="gelu",
    )
    unet = UNet2DConditionModel(
        **_UNET,
        cross_attention_dim=48,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    _heed_the_text(unet)
    vae = AutoencoderKL.from_pretrained(tiny_base / "vae")
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
    folder = tmp_path_factory.mktemp("tiny") / "sd2"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory, tiny_base) -> Path:
    """Shaped like SDXL 1.0.

    It has two tokenizers, two text encoders of different width (with SDXL's odd `eos_token_id` of
    2), pooled text and sizes.
    """
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    torch.manual_seed(2)
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    tokenizer_2 = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer", pad_token="!")
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    text = CLIPTextConfig(**{**_text(tokenizer), **ids}, hidden_size=32, num_hidden_layers=2)
    text_2 = CLIPTextConfig(
        **{**_text(tokenizer), **ids},
        hidden_size=48,
        num_hidden_layers=3,
        projection_dim=24,
        hidden_act="gelu",
    )
    unet = UNet2DConditionModel(
        **_UNET,
        cross_attention_dim=32 + 48,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )
    _heed_the_text(unet)
    pipe = StableDiffusionXLPipeline(
        AutoencoderKL.from_pretrained(tiny_base / "vae"),
        CLIPTextModel(text),
        CLIPTextModelWithProjection(text_2),
        tokenizer,
        tokenizer_2,
        unet,
        EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("tiny") / "xl"
    pipe.save_pretrained(folder)
    return folder


_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}


def _text(tokenizer) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _heed_the_text(unet) -> None:
    """Make the conditions matter, which random weights hardly use."""
    import torch

    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ("attn2" in name or "add_embedding" in name) and name.endswith("weight"):
                parameter *= 4
