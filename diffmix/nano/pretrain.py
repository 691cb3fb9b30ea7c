"""Pre-train the embedded base model: `python -m diffmix.nano.pretrain --out DIR`.

It makes a Stable-Diffusion-shaped pipeline of five million parameters from the `pretrain` part of
`diffmix.nano.data` alone: first the autoencoder, then U-Net and text encoder together on its
latents. The same settings give the same weights on the same machine and library versions. The
shipped weights took two calls (docs/nano.md), of which the first has the defaults.
"""

import argparse
import copy
import dataclasses
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffmix.nano import data
from diffmix.nano.captions import caption, vocabulary
from diffmix.nano.tokenizer import write_tokenizer

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the weights. The defaults are those of the first of two stages that made the
    shipped ones.
    """

    pictures: int = 24_000
    """Random compositions of the pre-training digits that are rendered once, for both trainings."""
    name_share: float = 0.5
    """The probability with which a caption gives the class's name."""
    empty_share: float = 0.12
    """The probability with which a caption is replaced by the empty prompt, for classifier-free
    guidance.
    """
    vae_steps: int = 1200
    vae_batch_size: int = 32
    vae_lr: float = 2e-3
    ink_weight: float = 3.0
    """How much more an error counts where the digit is: an autoencoder this small has to choose."""
    kl_weight: float = 2e-4
    """Of the Kullback-Leibler term (nats per latent element) against the mean absolute error in
    [-1, 1].
    """
    unet_steps: int = 3000
    unet_batch_size: int = 64
    unet_lr: float = 1.5e-3
    unet_ink_weight: float = 0.0
    """How much more the denoising error counts where the digit is: backgrounds make up most of it,
    shapes are harder.
    """
    snr_gamma: float = 5.0
    """Of the min-SNR loss weight (Hang et al., 2023)."""
    ema_decay: float = 0.998
    """Of the moving average of the weights of U-Net and text encoder, which is what is saved."""
    seed: int = 0


SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
TEXT_WIDTH, TEXT_LENGTH = 128, 32
LATENT_SHAPE = (4, data.RESOLUTION // 4, data.RESOLUTION // 4)


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
    """A CLIP text model of two layers over `tokenizer`'s vocabulary."""
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


def compositions(count: int, seed: int) -> Iterator[data.Recipe]:
    """Random recipes from the pre-training digits and photograph parts, backgrounds independent of
    the class.
    """
    rng = np.random.default_rng(seed)
    rows = data.digit_indices("pretrain")
    for index in range(count):
        row, group = rows[rng.integers(len(rows))], data.GROUPS[rng.integers(len(data.GROUPS))]
        yield data.draw_recipe(f"pretrain/{index}", "pretrain", row, group, rng)


class Descent:
    """AdamW with 5 % linear warm-up and cosine to zero, on batches whose parts are computed side by
    side.

    One thread for each part is nearly twice as fast on two cores as two threads inside each of
    these small operations. `close` ends the threads.
    """

    PARTS = 2

    def __init__(
        self, what: str, model: torch.nn.Module, lr: float, weight_decay: float, steps: int
    ) -> None:
        self._what, self._steps, self._done, self._started = what, steps, 0, time.monotonic()
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
        """One step down the mean of `loss` over the parts of `batch`, tensors with the same first
        dimension.
        """

        def gradients(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = loss(*part)
            return (value.detach(), *torch.autograd.grad(value, self._parameters))

        parts = zip(*(tensor.tensor_split(self.PARTS) for tensor in batch), strict=True)
        value, *means = (
            torch.stack(each).mean(0)
            for each in zip(*self._pool.map(gradients, parts), strict=True)
        )
        for parameter, gradient in zip(self._parameters, means, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
        if self._done % 50 == 0 or self._done == self._steps - 1:
            seconds = time.monotonic() - self._started
            log.info(
                "%s step %d/%d loss=%.4f %.0f s",
                self._what,
                self._done,
                self._steps,
                value.item(),
                seconds,
            )
        self._done += 1

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def train_vae(vae: AutoencoderKL, pictures: Tensor, inks: Tensor, settings: Settings) -> None:
    """Train on `pictures` (uint8, N x 3 x 32 x 32) and set the scaling factor that gives the
    latents unit variance.

    `inks` says where the digits are: float in [0, 1], N x 1 x 32 x 32.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    descent = Descent("vae", vae, settings.vae_lr, 1e-4, settings.vae_steps)

    def loss(batch: Tensor, ink: Tensor, noise: Tensor) -> Tensor:
        posterior = vae.encode(batch).latent_dist
        rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample
        error = ((1 + settings.ink_weight * ink) * (rebuilt - batch).abs()).mean()
        return error + settings.kl_weight * posterior.kl().mean() / noise[0].numel()

    for _ in range(settings.vae_steps):
        rows = torch.randint(len(pictures), (settings.vae_batch_size,), generator=generator)
        noise = torch.randn(len(rows), *LATENT_SHAPE, generator=generator)
        descent.step(loss, pictures[rows] / 127.5 - 1, inks[rows], noise)
    descent.close()
    mean, std = encode(vae, pictures[:2048])
    vae.register_to_config(
        scaling_factor=round(1 / (mean.square().mean() + std.square().mean()).sqrt().item(), 4)
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the posterior over latents, unscaled: two float tensors of N x
    4 x 8 x 8.
    """
    posteriors = [vae.encode(part / 127.5 - 1).latent_dist for part in pictures.split(256)]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokens: Tensor,
    latents: tuple[Tensor, Tensor],
    empty: Tensor,
    inks: Tensor,
    settings: Settings,
) -> None:
    """Train both jointly on the denoising loss and leave the moving average of their weights in
    them.

    `tokens` is int64 of N x length, `latents` the scaled mean and standard deviation for the same N
    pictures, `empty` the tokens of the empty prompt, `inks` says where the digits are: float in [0,
    1], N x 1 x 32 x 32.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    noising = DDPMScheduler(**SCHEDULE)
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
        clean = latents[0][rows] + latents[1][rows] * torch.randn(
            size, *LATENT_SHAPE, generator=generator
        )
        noise = torch.randn(size, *LATENT_SHAPE, generator=generator)
        time_steps = torch.randint(noising.config.num_train_timesteps, (size,), generator=generator)
        prompts = torch.where(unnamed, empty, tokens[rows])
        descent.step(
            loss,
            noising.add_noise(clean, noise, time_steps),
            noise,
            time_steps,
            prompts,
            areas[rows],
        )
        decay = min(settings.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, now in zip(average.parameters(), trained.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)
    descent.close()
    trained.load_state_dict(average.state_dict())


def save(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write the pipeline's folder, weights as 16-bit safetensors that load as 32-bit ones."""
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
    # Loaded without a dtype, a text encoder would take the file's: half precision beside a U-Net in
    # single.
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
    for part in ("unet", "vae"):  # where an earlier result lay is nobody's business
        config = folder / part / "config.json"
        kept = {
            name: value
            for name, value in json.loads(config.read_text()).items()
            if name != "_name_or_path"
        }
        config.write_text(json.dumps(kept, indent=2) + "\n")
    write_tokenizer(vocabulary(), folder / "tokenizer", TEXT_LENGTH)


def pretrain(out: Path, settings: Settings, start: Path | None = None) -> None:
    """Train all parts and write the pipeline's folder to `out`.

    With `start`, such a folder, its autoencoder is kept and its U-Net and text encoder are trained
    on.
    """
    recipes = list(compositions(settings.pictures, settings.seed))
    pictures = (
        torch.from_numpy(np.stack([data.render(recipe) for recipe in recipes]))
        .permute(0, 3, 1, 2)
        .contiguous()
    )
    inks = torch.from_numpy(np.stack([data.ink(recipe) for recipe in recipes]))[:, None]
    log.info(
        "rendered %d pictures of %d digits",
        len(pictures),
        len({recipe.digit for recipe in recipes}),
    )
    torch.manual_seed(settings.seed)
    vae = AutoencoderKL.from_pretrained(start / "vae") if start else build_vae()
    if not start:
        train_vae(vae, pictures, inks, settings)
    scale = vae.config.scaling_factor
    mean, std = encode(vae, pictures)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_tokenizer(vocabulary(), Path(folder), TEXT_LENGTH)
    rng = np.random.default_rng(settings.seed)
    captions = [caption(recipe, settings.name_share, rng) for recipe in recipes]
    tokens = tokenizer(
        [*captions, ""], padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    torch.manual_seed(settings.seed)
    unet = UNet2DConditionModel.from_pretrained(start / "unet") if start else build_unet()
    text_encoder = (
        CLIPTextModel.from_pretrained(start / "text_encoder")
        if start
        else build_text_encoder(tokenizer)
    )
    train_unet(
        unet, text_encoder, tokens[:-1], (mean * scale, std * scale), tokens[-1], inks, settings
    )
    save(out, vae, unet, text_encoder, tokenizer)
    log.info("saved %s", out)


def main() -> None:
    """The command line: an option for each of `Settings`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder that the pipeline is written to"
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="an earlier result, whose autoencoder is kept and whose rest is trained on",
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
