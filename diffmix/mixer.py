"""The generator: a batch of mix specs and source images in, mixed images out.

One call handles mixes of different sources, target classes, strengths and seeds, and each image is what stock
`StableDiffusionImg2ImgPipeline` (or `StableDiffusionPipeline`, for strategies from noise; for an SDXL base their XL kin) gives
for it alone with `generator=torch.Generator().manual_seed(seed)`. In half precision the noise is the fp32 noise, rounded, so that a mix is
the same picture in every precision (the stock pipelines draw other noise there).
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from diffmix.attention import choose_attention
from diffmix.base_model import base_fingerprint, device_and_dtype, load_base, move, resolution_of, to_tensor
from diffmix.concept import Concept, prompt
from diffmix.config import MixConfig, ModelConfig
from diffmix.errors import UserError
from diffmix.images import decode
from diffmix.plan import MixSpec, denoising_steps
from diffmix.prompt_encoder import PromptEncoder

log = logging.getLogger(__name__)

_CACHE_BYTES = 256 * 2**20  # 4,000 sources of 512 px in half precision
_DECODE_PIXELS = 8 * 512 * 512  # the VAE's decoder needs about 8 GB for this many at once in half precision


class _Source(NamedTuple):
    """An encoded source image."""

    mean: torch.Tensor
    """[1, C, h, w]: the VAE posterior's mean."""
    std: torch.Tensor
    size: tuple[int, int]
    """Width and height of the original in pixels."""


class Mixer:
    """A personalised pipeline on one device. Whoever makes it owns it; there is nothing to close.

    `class_names` are in the order of the plan's labels. `concept` is the concept folder, needed for strategies ti-* and
    diff-*. `template` is the prompt's, with {token}, {class_name} and {superclass}. Threads on a CPU are the caller's to
    set. Not thread-safe. Raises `UserError` for a base, concept or prompt that cannot be used.
    """

    def __init__(
        self,
        model: ModelConfig,
        mix: MixConfig,
        class_names: list[str],
        superclass: str,
        concept: str | Path | None = None,
        template: str = "a photo of a {token} {superclass}",
    ):
        self.config = mix
        generator, self.kind = mix.strategy.split("-")
        loaded = None
        if generator != "real":
            if concept is None:
                raise UserError(f"--mix.strategy {mix.strategy} needs a concept; set --personalize.concept or personalise first.")
            loaded = Concept.load(concept)
            loaded.check_matches(class_names, base_fingerprint(model), str(concept))
            if generator == "ti" and not loaded.tokens:
                raise UserError(f"--mix.strategy {mix.strategy} needs class tokens, but the concept in {concept} has none; use diff-*.")
        device, dtype = device_and_dtype(model.precision)
        # The LoRA is fused in fp32: most of it would be lost in the rounding of half-precision weights.
        self.pipe = load_base(model, "cpu", torch.float32)
        if loaded:
            loaded.apply(self.pipe, use_tokens=True, use_lora=generator == "diff")
        move(self.pipe, device, dtype)
        self.device, self.dtype = torch.device(device), dtype
        self.resolution = resolution_of(model, self.pipe)
        self._set_scheduler()
        self.prompts = [prompt(template, loaded.token(name) if loaded else None, name, superclass) for name in class_names]
        """The prompt of each class, in label order."""
        side = self.resolution // self.pipe.vae_scale_factor
        self.latent_shape = (1, self.pipe.unet.config.in_channels, side, side)
        self.guided = mix.guidance_scale > 1
        if device == "cuda":
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.vae.to(memory_format=torch.channels_last)
        self.attention = choose_attention(self.pipe, model.attention, (mix.batch * (1 + self.guided), *self.latent_shape[1:]))
        if model.compile:
            self.pipe.unet.compile_repeated_blocks()
        self._text = PromptEncoder(self.pipe, self.resolution).encode([*self.prompts, mix.negative_prompt])
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._cached_bytes = 0
        log.info("mixer on %s in %s, %d px, attention %s", self.device, dtype, self.resolution, self.attention)

    @torch.inference_mode()
    def mix(self, specs: list[MixSpec], sources: list[bytes | Image.Image | None]) -> list[Image.Image]:
        """One RGB image for each spec, in order, of its source's own size (of the model's size for mixes from noise).

        `sources` are image files' bytes or PIL images, None for strategies from noise. All specs must run the same
        number of denoising steps, as the specs of one chunk of a plan do; raises `ValueError` otherwise.
        """
        if not specs:
            return []
        steps = {int(denoising_steps(spec.strength, self.config.num_inference_steps)) for spec in specs}
        if len(steps) != 1 or 0 in steps:
            raise ValueError(f"one batch has to run one number of denoising steps, 1 or more, not {sorted(steps)}")
        encoded = [self._source(spec, source) for spec, source in zip(specs, sources, strict=True)]
        latents = self.denoise(specs, encoded, steps.pop())
        images = self.decode(latents)
        return [
            image.resize(source.size, Image.Resampling.BILINEAR) if source and source.size != image.size else image
            for image, source in zip(images, encoded, strict=True)
        ]

    def denoise(self, specs: list[MixSpec], sources: list[_Source | None], steps: int) -> torch.Tensor:
        """[n, C, h, w]: the mixes' latents, after the last `steps` of the schedule."""
        scheduler, guidance = self.pipe.scheduler, self.config.guidance_scale
        scheduler.set_timesteps(self.config.num_inference_steps, device=self.device)  # also forgets the last call
        begin = self.config.num_inference_steps - steps
        timesteps = scheduler.timesteps[begin:]
        scheduler.set_begin_index(begin)
        # Noise is drawn on the CPU, mix by mix: first the posterior's, then what is added, as the stock pipelines do.
        generators = [torch.Generator("cpu").manual_seed(spec.seed) for spec in specs]
        starts = [self._noise(g) if source is None else self._encoded(source, g) for source, g in zip(sources, generators, strict=True)]
        latents = torch.cat(starts).to(self.device)
        if self.kind == "gen":
            latents = latents * scheduler.init_noise_sigma
        else:
            noise = torch.cat([self._noise(generator) for generator in generators]).to(self.device)
            latents = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(specs)))
        unconditional_rows = [len(self.prompts)] * len(specs) if self.guided else []
        text = self._text.rows(unconditional_rows + [spec.target_label for spec in specs]).unet_inputs()
        for timestep in timesteps:
            inputs = torch.cat([latents] * 2) if self.guided else latents
            predicted = self.pipe.unet(inputs, timestep, **text, return_dict=False)[0]
            if self.guided:
                unconditional, conditional = predicted.chunk(2)
                predicted = unconditional + guidance * (conditional - unconditional)
            latents = scheduler.step(predicted, timestep, latents, generator=generators, return_dict=False)[0]
        return latents

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Latents [n, C, h, w] -> RGB images of `resolution` squared."""
        vae = self.pipe.vae
        images = []
        for part in latents.split(max(1, _DECODE_PIXELS // self.resolution**2)):
            pixels = vae.decode((part / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0].float()
            pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            images += [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        return images

    def _set_scheduler(self) -> None:
        from diffusers import DPMSolverMultistepScheduler

        self.pipe.scheduler = DPMSolverMultistepScheduler.from_config(self.pipe.scheduler.config)

    def _source(self, spec: MixSpec, source: bytes | Image.Image | None) -> _Source | None:
        """The encoded source, from the cache where it is there.

        Sources are encoded one by one: in a batch, what is cached already would change the batch, and with it the last bits.
        """
        if self.kind == "gen":
            return None
        cached = self._sources.get(spec.source_id)
        if cached is not None:
            self._sources.move_to_end(spec.source_id)
            return cached
        if source is None:
            raise ValueError(f"mix {spec.mix_id} has no source image")
        image = decode(source, sys.maxsize) if isinstance(source, bytes) else source.convert("RGB")  # sizes were checked when read
        pixels = to_tensor(image, self.resolution)[None].to(self.device, self.pipe.vae.dtype)
        posterior = self.pipe.vae.encode(pixels).latent_dist
        encoded = _Source(posterior.mean.to(self.dtype), posterior.std.to(self.dtype), image.size)
        size = 2 * encoded.mean.nbytes
        self._sources[spec.source_id] = encoded
        self._cached_bytes += size
        while self._cached_bytes > _CACHE_BYTES:
            self._sources.popitem(last=False)
            self._cached_bytes -= size
        return encoded

    def _encoded(self, source: _Source, generator: torch.Generator) -> torch.Tensor:
        """[1, C, h, w]: a draw from the source's posterior, scaled for the UNet."""
        return (source.mean + source.std * self._noise(generator).to(self.device)) * self.pipe.vae.config.scaling_factor

    def _noise(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(self.latent_shape, generator=generator).to(self.dtype)
