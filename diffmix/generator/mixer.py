"""The generator: a batch of mix specs and source images in, mixed images out.

One call handles mixes of different sources, target classes, strengths and seeds, and each image is
what stock `StableDiffusionImg2ImgPipeline` (or `StableDiffusionPipeline`, for strategies from
noise; for an SDXL base their XL kin) gives for it alone with
`generator=torch.Generator().manual_seed(seed)`. In half precision only the models compute in half:
latents and noise stay fp32, so that a mix is the same picture in every precision (the stock
pipelines draw other noise there).
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from diffmix.config import MixConfig, ModelConfig
from diffmix.errors import UserError
from diffmix.generator.attention import choose_attention
from diffmix.generator.base_model import (
    base_fingerprint,
    device_and_dtype,
    load_base,
    move,
    resolution_of,
    to_tensor,
)
from diffmix.generator.concept import Concept, prompt
from diffmix.generator.prompt_encoder import Conditioning, PromptEncoder
from diffmix.generator.samplers import fuse_sampler_lora, make_scheduler
from diffmix.generator.tiny_vae import use_tiny_vae
from diffmix.images import decode
from diffmix.plan import MixSpec, denoising_steps

log = logging.getLogger(__name__)

_CACHE_BYTES = 256 * 2**20  # 4,000 sources of 512 px in half precision
_DECODE_PIXELS = (
    8 * 512 * 512
)  # the VAE's decoder needs about 8 GB for this many at once in half precision
_PART = 16  # rows of the UNet's batch from which a CPU core is busy with them alone
_USUAL_BATCH = 16  # outside of a run nobody has resolved `auto`


def _one_core_each(count: int) -> ThreadPoolExecutor:
    """Threads in which torch uses one core. What they set is also what torch would give to threads
    yet to come, so it is set back.
    """
    all_there = threading.Barrier(count)

    def begin(_: int) -> None:
        # a thread takes the common number with the first question, also over one that was set
        # before
        torch.get_num_threads()
        torch.set_num_threads(1)
        all_there.wait()

    threads = ThreadPoolExecutor(count, "unet")
    list(threads.map(begin, range(count)))
    torch.set_num_threads(count)
    return threads


class _Source(NamedTuple):
    """An encoded source image."""

    mean: torch.Tensor
    """[1, C, h, w]: the VAE posterior's mean."""
    std: torch.Tensor | None
    """None: the VAE has no posterior, its latents are the mean."""
    size: tuple[int, int]
    """Width and height of the original in pixels."""


class Mixer:
    """A personalized pipeline on one device. Whoever makes it owns it; there is nothing to close.

    `class_names` are in the order of the plan's labels. `concept` is the concept folder, needed for
    strategies ti-* and diff-*. `template` is the prompt's, with {token}, {class_name} and
    {superclass}. Threads on a CPU are the caller's to set. Not thread-safe. Raises `UserError` for
    a base, concept or prompt that cannot be used.
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
                raise UserError(
                    f"--mix.strategy {mix.strategy} needs a concept; set --personalize.concept or personalize first."
                )
            loaded = Concept.load(concept)
            loaded.check_matches(class_names, base_fingerprint(model), str(concept))
            if generator == "ti" and not loaded.tokens:
                raise UserError(
                    f"--mix.strategy {mix.strategy} needs class tokens, but the concept in {concept} has none; use diff-*."
                )
        device, dtype = device_and_dtype(model.precision)
        # LoRAs are fused in fp32: most of it would be lost in the rounding of half-precision
        # weights.
        self.pipe = load_base(model, "cpu", torch.float32)
        if loaded:
            loaded.apply(self.pipe, use_tokens=True, use_lora=generator == "diff")
        if mix.sampler_lora:
            fuse_sampler_lora(self.pipe, mix.sampler_lora)
        if model.tiny_vae:
            use_tiny_vae(self.pipe, model.tiny_vae)
        move(self.pipe, device, dtype)
        self.device, self.dtype = torch.device(device), dtype
        self.resolution = resolution_of(model, self.pipe)
        self.pipe.scheduler = make_scheduler(mix.sampler, self.pipe)
        self.prompts = [
            prompt(template, loaded.token(name) if loaded else None, name, superclass)
            for name in class_names
        ]
        """The prompt of each class, in label order."""
        side = self.resolution // self.pipe.vae_scale_factor
        self.latent_shape = (1, self.pipe.unet.config.in_channels, side, side)
        self.guided = mix.guidance_scale > 1
        if device == "cuda":
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.vae.to(memory_format=torch.channels_last)
        self.batch = mix.batch if isinstance(mix.batch, int) else _USUAL_BATCH
        """Mixes that a call usually has. Fewer are filled up to it where the UNet is compiled, more
        are taken as they come.
        """
        self.attention = choose_attention(
            self.pipe, model.attention, (self.batch * (1 + self.guided), *self.latent_shape[1:])
        )
        self.compiled = model.compile
        if model.compile:
            self.pipe.unet.compile_repeated_blocks(dynamic=False)
        self._text = PromptEncoder(self.pipe, self.resolution).encode(
            [*self.prompts, mix.negative_prompt]
        )
        self._cores = torch.get_num_threads()  # whatever thread calls later
        self._threads: ThreadPoolExecutor | None = None
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._cached_bytes = 0
        log.info(
            "mixer on %s in %s, %d px, attention %s",
            self.device,
            dtype,
            self.resolution,
            self.attention,
        )

    @torch.inference_mode()
    def mix(
        self, specs: list[MixSpec], sources: list[bytes | Image.Image | None]
    ) -> list[Image.Image]:
        """One RGB image for each spec, in order, of its source's own size (of the model's size for
        mixes from noise).

        `sources` are image files' bytes or PIL images, None for strategies from noise. All specs
        must run the same number of denoising steps, as the specs of one chunk of a plan do; raises
        `ValueError` otherwise.
        """
        if not specs:
            return []
        steps = {
            int(denoising_steps(spec.strength, self.config.num_inference_steps)) for spec in specs
        }
        if len(steps) != 1 or 0 in steps:
            raise ValueError(
                f"one batch has to run one number of denoising steps, 1 or more, not {sorted(steps)}"
            )
        encoded = [self._source(spec, source) for spec, source in zip(specs, sources, strict=True)]
        latents = self.denoise(specs, encoded, steps.pop())
        images = (Image.fromarray(pixels) for part in self.decode(latents) for pixels in part)
        return [
            image.resize(source.size, Image.Resampling.BILINEAR)
            if source and source.size != image.size
            else image
            for image, source in zip(images, encoded, strict=True)
        ]

    def denoise(
        self, specs: list[MixSpec], sources: list[_Source | None], steps: int
    ) -> torch.Tensor:
        """[n, C, h, w]: the mixes' latents, after the last `steps` of the schedule."""
        scheduler, guidance, total = (
            self.pipe.scheduler,
            self.config.guidance_scale,
            self.config.num_inference_steps,
        )
        scheduler.set_timesteps(
            total, device="cpu"
        )  # also forgets the last call; on the CPU, where its arithmetic waits for no GPU
        begin = total - steps
        timesteps = scheduler.timesteps[begin:]
        scheduler.set_begin_index(begin)
        # Noise is drawn on the CPU, mix by mix: first the posterior's, then what is added, as the
        # stock pipelines do.
        generators = [torch.Generator("cpu").manual_seed(spec.seed) for spec in specs]
        latents = self._start(sources, generators)
        if self.kind == "gen":
            latents = latents * scheduler.init_noise_sigma
        else:
            latents = scheduler.add_noise(
                latents, self._noise(generators), timesteps[:1].repeat(len(specs))
            )
        # A compiled UNet is compiled for each shape: a short call is filled up with copies of its
        # last mix.
        missing = max(0, self.batch - len(specs)) if self.compiled else 0
        targets = [spec.target_label for spec in specs] + [specs[-1].target_label] * missing
        conditional = self._text.rows(targets)
        both = self._text.rows([len(self.prompts)] * len(targets) + targets)
        low, high = (total * share for share in self.config.guidance_interval)
        for step, (timestep, on_device) in enumerate(
            zip(timesteps, timesteps.to(self.device), strict=True), begin
        ):
            guided = self.guided and low <= step < high
            inputs = torch.cat([latents, latents[-1:].expand(missing, -1, -1, -1)]).to(self.dtype)
            text = both if guided else conditional
            predicted = self._predict(torch.cat([inputs] * (1 + guided)), on_device, text).float()
            if guided:
                unconditional, text_driven = predicted.chunk(2)
                predicted = unconditional + guidance * (text_driven - unconditional)
            latents = scheduler.step(
                predicted[: len(specs)], timestep, latents, generator=generators, return_dict=False
            )[0]
        return latents

    def _predict(
        self, inputs: torch.Tensor, timestep: torch.Tensor, text: Conditioning
    ) -> torch.Tensor:
        """The UNet's output for [m, C, h, w]. On a CPU the batch is cut into one part for each
        thread.

        A core works through a part of its own a third faster than two cores share each of the
        UNet's small operations.
        """
        threads = self._cores
        if (
            self.device.type != "cpu"
            or self.compiled
            or threads == 1
            or len(inputs) < _PART * threads
        ):
            return self.pipe.unet(inputs, timestep, **text.unet_inputs(), return_dict=False)[0]
        if self._threads is None:
            self._threads = _one_core_each(threads)

        @torch.inference_mode()  # a thread does not inherit it
        def predict(rows: slice) -> torch.Tensor:
            return self.pipe.unet(
                inputs[rows], timestep, **text.rows(rows).unet_inputs(), return_dict=False
            )[0]

        edges = [len(inputs) * part // threads for part in range(threads + 1)]
        return torch.cat(list(self._threads.map(predict, map(slice, edges, edges[1:]))))

    def decode(self, latents: torch.Tensor) -> Iterator[np.ndarray]:
        """Latents [n, C, h, w] -> RGB pixels, uint8 [m, resolution, resolution, 3], in parts that
        add up to n.

        A GPU decodes the next part while the caller works on one.
        """
        vae = self.pipe.vae
        waiting: tuple[torch.Tensor, torch.cuda.Event | None] | None = None
        for part in latents.split(max(1, _DECODE_PIXELS // self.resolution**2)):
            pixels = vae.decode(
                (part / vae.config.scaling_factor).to(vae.dtype), return_dict=False
            )[0].float()
            pixels = (
                ((pixels / 2 + 0.5).clamp(0, 1) * 255)
                .round()
                .to(torch.uint8)
                .permute(0, 2, 3, 1)
                .contiguous()
            )
            launched = self._to_host(pixels)
            if waiting:
                yield self._arrived(*waiting)
            waiting = launched
        if waiting:
            yield self._arrived(*waiting)

    def _to_host(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Start to copy to main memory; the event says when all has arrived."""
        if self.device.type == "cpu":
            return pixels, None
        host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True).copy_(
            pixels, non_blocking=True
        )
        event = torch.cuda.Event()
        event.record()
        return host, event

    @staticmethod
    def _arrived(host: torch.Tensor, event: torch.cuda.Event | None) -> np.ndarray:
        if event is not None:
            event.synchronize()
        return host.numpy()

    def _source(self, spec: MixSpec, source: bytes | Image.Image | None) -> _Source | None:
        """The encoded source, from the cache where it is there.

        Sources are encoded one by one: in a batch, what is cached already would change the batch,
        and with it the last bits.
        """
        if self.kind == "gen":
            return None
        cached = self._sources.get(spec.source_id)
        if cached is not None:
            self._sources.move_to_end(spec.source_id)
            return cached
        if source is None:
            raise ValueError(f"mix {spec.mix_id} has no source image")
        image = decode(source) if isinstance(source, bytes) else source.convert("RGB")
        pixels = to_tensor(image, self.resolution, self.device)[None].to(self.pipe.vae.dtype)
        output = self.pipe.vae.encode(pixels)
        if hasattr(output, "latent_dist"):
            encoded = _Source(output.latent_dist.mean, output.latent_dist.std, image.size)
        else:
            encoded = _Source(output.latents, None, image.size)
        self._sources[spec.source_id] = encoded
        size = 2 * encoded.mean.nbytes
        self._cached_bytes += size
        while self._cached_bytes > _CACHE_BYTES:
            self._sources.popitem(last=False)
            self._cached_bytes -= size
        return encoded

    def _start(
        self, sources: list[_Source | None], generators: list[torch.Generator]
    ) -> torch.Tensor:
        """float32 [n, C, h, w]: noise, or draws from the sources' posteriors, scaled for the UNet."""
        encoded = [source for source in sources if source is not None]
        if not encoded:
            return self._noise(generators)
        latents = torch.cat([source.mean for source in encoded]).float()
        if encoded[0].std is not None:
            std = torch.cat([source.std for source in encoded if source.std is not None]).float()
            latents = latents + std * self._noise(generators)
        return latents * self.pipe.vae.config.scaling_factor

    def _noise(self, generators: list[torch.Generator]) -> torch.Tensor:
        """float32 [n, C, h, w]: standard normal, each from its own generator."""
        noise = torch.cat(
            [torch.randn(self.latent_shape, generator=generator) for generator in generators]
        )
        return (
            noise.pin_memory().to(self.device, non_blocking=True)
            if self.device.type == "cuda"
            else noise
        )
