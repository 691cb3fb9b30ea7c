"""A tiny VAE for nano, distilled from nano's own in a minute, to measure `model.tiny_vae` with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from diffmix.generator.base_model import to_tensor
from diffmix.images import decode
from diffmix.nano import data

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def distil(vae: AutoencoderKL, folder: str | Path, steps: int, seed: int = 0) -> float:
    """Save an AutoencoderTiny whose latents are those of `vae`, scaled, and whose images are
    nano's. Gives its last reconstruction PSNR in dB.

    It is trained on nano's pre-training images with AdamW and one cycle of the learning rate.
    """
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    examples = data.examples("pretrain", seed)
    pixels = torch.stack([to_tensor(decode(each.image), data.RESOLUTION) for each in examples])
    with torch.no_grad():
        means = [vae.encode(part).latent_dist.mean for part in pixels.split(128)]
        wanted = torch.cat(means) * vae.config.scaling_factor
    width = (32, 32, 32)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=width,
        decoder_block_out_channels=width,
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    error = 1.0
    for _ in range(steps):
        rows = torch.randint(len(pixels), (64,))
        made = tiny.decode(wanted[rows]).sample
        error = F.mse_loss(made, pixels[rows])
        loss = F.mse_loss(tiny.encode(pixels[rows]).latents, wanted[rows]) + 4 * error
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tiny.save_pretrained(folder)
    return float(10 * np.log10(4 / float(error)))  # values span 2
