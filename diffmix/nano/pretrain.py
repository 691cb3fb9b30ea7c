"""Pre-train the embedded base model: `python -m diffmix.nano.pretrain --out DIR`.

It trains the parts of `diffmix.nano.pipeline` on the `pretrain` part of `diffmix.nano.data` alone:
first the autoencoder, then U-Net and text encoder together on its latents. The same settings give
the same weights on the same machine with the same library versions. The shipped weights took two
calls (docs/nano.md); the first one had the default settings.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel

from diffmix.nano import data, pipeline
from diffmix.nano.captions import caption
from diffmix.nano.pipeline import LATENT_SHAPE

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the weights.

    The shipped weights come from two stages; the defaults are those of the first.
    """

    images: int = 24_000
    """Number of random compositions, which are rendered once, for both trainings."""
    name_share: float = 0.5
    """Probability that a caption names the class."""
    empty_share: float = 0.12
    """Probability that the empty prompt replaces a caption, for classifier-free guidance."""
    vae_steps: int = 1200
    vae_batch_size: int = 32
    vae_lr: float = 2e-3
    """Peak learning rate."""
    ink_weight: float = 3.0
    """Extra weight of the reconstruction error where the digit is. So small an autoencoder cannot
    keep everything.
    """
    kl_weight: float = 2e-4
    """Weight of the Kullback-Leibler term (nats per latent element) beside the mean absolute error
    of pixels in [-1, 1].
    """
    unet_steps: int = 3000
    unet_batch_size: int = 64
    unet_lr: float = 1.5e-3
    """Peak learning rate of U-Net and text encoder."""
    unet_ink_weight: float = 0.0
    """Extra weight of the denoising error where the digit is. Shapes are harder than backgrounds,
    but backgrounds are most of the error.
    """
    snr_gamma: float = 5.0
    """Gamma of the min-SNR loss weight (Hang et al., 2023)."""
    ema_decay: float = 0.998
    """Decay of the moving average of U-Net's and text encoder's weights. The average is saved."""
    seed: int = 0


def compositions(count: int, seed: int) -> Iterator[data.Recipe]:
    """`count` random recipes of the `pretrain` part. Backgrounds are independent of the class."""
    rng = np.random.default_rng(seed)
    rows = data.digit_indices("pretrain")
    for index in range(count):
        row = rows[rng.integers(len(rows))]
        group = data.GROUPS[rng.integers(len(data.GROUPS))]
        yield data.draw_recipe(f"pretrain/{index}", "pretrain", row, group, rng)


class Descent:
    """AdamW with 5 % linear warm-up and a cosine to zero. It computes parts of a batch in parallel.

    On two cores, one thread per part is nearly twice as fast as two threads in each of these small
    operations. The caller ends the threads with `close`.
    """

    PARTS = 2

    def __init__(
        self, name: str, model: torch.nn.Module, lr: float, weight_decay: float, steps: int
    ) -> None:
        """`name` is that of the log lines."""
        self._name, self._steps, self._done, self._started = name, steps, 0, time.monotonic()
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=lr, weight_decay=weight_decay)
        warm_up = max(1, steps // 20)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
        )
        self._pool = ThreadPoolExecutor(
            self.PARTS, initializer=torch.set_num_threads, initargs=(1,)
        )

    def step(self, loss: Callable[..., Tensor], *batch: Tensor) -> None:
        """One step on the mean of `loss` over the parts of `batch`.

        The tensors of `batch` have the same first dimension; `loss` gets the same part of each.
        """

        def gradients(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = loss(*part)
            return (value.detach(), *torch.autograd.grad(value, self._parameters))

        parts = zip(*(tensor.tensor_split(self.PARTS) for tensor in batch), strict=True)
        found = zip(*self._pool.map(gradients, parts), strict=True)
        value, *means = (torch.stack(each).mean(0) for each in found)
        for parameter, gradient in zip(self._parameters, means, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
        if self._done % 50 == 0 or self._done == self._steps - 1:
            seconds, steps = time.monotonic() - self._started, f"{self._done}/{self._steps}"
            log.info("%s step %s loss=%.4f %.0f s", self._name, steps, value.item(), seconds)
        self._done += 1

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def train_vae(
    vae: AutoencoderKL,
    images: UInt8[Tensor, "images 3 32 32"],
    inks: Float[Tensor, "images 1 32 32"],
    settings: Settings,
) -> None:
    """Train the autoencoder in place, and set the scaling factor that gives latents unit variance.

    `inks` is the share of each pixel that the digit covers, in [0, 1].
    """
    generator = torch.Generator().manual_seed(settings.seed)
    descent = Descent("vae", vae, settings.vae_lr, 1e-4, settings.vae_steps)

    def loss(batch: Tensor, ink: Tensor, noise: Tensor) -> Tensor:
        posterior = vae.encode(batch).latent_dist
        rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample
        error = ((1 + settings.ink_weight * ink) * (rebuilt - batch).abs()).mean()
        return error + settings.kl_weight * posterior.kl().mean() / noise[0].numel()

    for _ in range(settings.vae_steps):
        rows = torch.randint(len(images), (settings.vae_batch_size,), generator=generator)
        noise = torch.randn(len(rows), *LATENT_SHAPE, generator=generator)
        descent.step(loss, images[rows] / 127.5 - 1, inks[rows], noise)
    descent.close()
    mean, std = encode(vae, images[:2048])
    deviation = (mean.square().mean() + std.square().mean()).sqrt().item()
    vae.register_to_config(scaling_factor=round(1 / deviation, 4))


@torch.no_grad()
def encode(
    vae: AutoencoderKL, images: UInt8[Tensor, "images 3 32 32"]
) -> tuple[Float[Tensor, "images 4 8 8"], Float[Tensor, "images 4 8 8"]]:
    """Mean and standard deviation of the posterior over latents, without the scaling factor."""
    posteriors = [vae.encode(part / 127.5 - 1).latent_dist for part in images.split(256)]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokens: Int64[Tensor, "images length"],
    latents: tuple[Float[Tensor, "images 4 8 8"], Float[Tensor, "images 4 8 8"]],
    empty: Int64[Tensor, " length"],
    inks: Float[Tensor, "images 1 32 32"],
    settings: Settings,
) -> None:
    """Train both together on the denoising loss, and leave the moving average of weights in them.

    `tokens` are those of the captions, and `empty` those of the empty prompt. `latents` are the
    mean and the standard deviation from `encode`, scaled. `inks` is the share of each pixel that
    the digit covers, in [0, 1].
    """
    generator = torch.Generator().manual_seed(settings.seed)
    noising = DDPMScheduler(**pipeline.SCHEDULE)
    signal = noising.alphas_cumprod / (1 - noising.alphas_cumprod)
    trained = torch.nn.ModuleList([unet, text_encoder])
    average = copy.deepcopy(trained)
    descent = Descent("unet", trained, settings.unet_lr, 1e-2, settings.unet_steps)
    areas = 1 + settings.unet_ink_weight * F.adaptive_avg_pool2d(inks, LATENT_SHAPE[1:])

    def loss(
        noisy: Tensor, noise: Tensor, time_steps: Tensor, prompts: Tensor, area: Tensor
    ) -> Tensor:
        predicted = unet(noisy, time_steps, text_encoder(prompts)[0]).sample
        weight = (settings.snr_gamma / signal[time_steps]).clamp(max=1)
        return (weight * (area * (predicted - noise).square()).mean(dim=(1, 2, 3))).mean()

    size = settings.unet_batch_size
    for step in range(settings.unet_steps):
        rows = torch.randint(len(tokens), (size,), generator=generator)
        unnamed = torch.rand(size, 1, generator=generator) < settings.empty_share
        sampled = torch.randn(size, *LATENT_SHAPE, generator=generator)
        clean = latents[0][rows] + latents[1][rows] * sampled
        noise = torch.randn(size, *LATENT_SHAPE, generator=generator)
        time_steps = torch.randint(noising.config.num_train_timesteps, (size,), generator=generator)
        prompts = torch.where(unnamed, empty, tokens[rows])
        noisy = noising.add_noise(clean, noise, time_steps)
        descent.step(loss, noisy, noise, time_steps, prompts, areas[rows])
        decay = min(settings.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, now in zip(average.parameters(), trained.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)
    descent.close()
    trained.load_state_dict(average.state_dict())


def pretrain(out: Path, settings: Settings, start: Path | None = None) -> None:
    """Train all parts and write the pipeline's folder to `out`.

    `start` is the folder of an earlier result: its autoencoder is kept, and the training of its
    U-Net and text encoder continues.
    """
    recipes = list(compositions(settings.images, settings.seed))
    rendered = torch.from_numpy(np.stack([data.render(recipe) for recipe in recipes]))
    images = rendered.permute(0, 3, 1, 2).contiguous()
    inks = torch.from_numpy(np.stack([data.ink(recipe) for recipe in recipes]))[:, None]
    digits = {recipe.digit for recipe in recipes}
    log.info("rendered %d images of %d digits", len(images), len(digits))
    torch.manual_seed(settings.seed)
    vae = AutoencoderKL.from_pretrained(start / "vae") if start else pipeline.build_vae()
    if not start:
        train_vae(vae, images, inks, settings)
    scale = vae.config.scaling_factor
    mean, std = encode(vae, images)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = pipeline.build_tokenizer(Path(folder))
    rng = np.random.default_rng(settings.seed)
    captions = [caption(recipe, settings.name_share, rng) for recipe in recipes]
    tokens = tokenizer(
        [*captions, ""], padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    torch.manual_seed(settings.seed)
    if start:
        unet = UNet2DConditionModel.from_pretrained(start / "unet")
        text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder")
    else:
        unet = pipeline.build_unet()
        text_encoder = pipeline.build_text_encoder(tokenizer)
    latents = (mean * scale, std * scale)
    train_unet(unet, text_encoder, tokens[:-1], latents, tokens[-1], inks, settings)
    pipeline.save(out, vae, unet, text_encoder, tokenizer)
    log.info("saved %s", out)


def main() -> None:
    """The command line, with an option for each field of `Settings`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that the pipeline is written to"
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of an earlier result: keep its autoencoder, continue the training of the rest",
    )
    for field in dataclasses.fields(Settings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out, start = options.pop("out"), options.pop("start")
    pretrain(out, Settings(**options), start)


if __name__ == "__main__":
    main()
