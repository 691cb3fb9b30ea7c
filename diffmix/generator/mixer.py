"""The mixer: a batch of mix specs and source images in, mixed images out.

One call takes mixes of different sources, target classes, strengths and seeds. Each image is what
stock `StableDiffusionImg2ImgPipeline` gives for it alone with
`generator=torch.Generator().manual_seed(seed)`; for strategies from noise it is
`StableDiffusionPipeline`, for an SDXL base the XL pipelines. In half precision only the models
compute in half. Latents and noise stay fp32, so that a mix is the same image in every precision
(the stock pipelines draw other noise there).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor

from diffmix import strategies
from diffmix.config import MixConfig, ModelConfig
from diffmix.errors import UserError
from diffmix.generator.base_model import (
    base_fingerprint,
    device_and_dtype,
    load_base,
    move,
    resolution_of,
)
from diffmix.generator.concept import Concept, prompt
from diffmix.generator.device.accumulation import adding_in_fp16, number_format
from diffmix.generator.device.attention import choose_attention, kernels
from diffmix.generator.device.compiling import compile_parts, graphs
from diffmix.generator.device.cores import one_core_each
from diffmix.generator.device.layout import set_layout
from diffmix.generator.device.memory import Parts, fitting
from diffmix.generator.device.transfer import sent
from diffmix.generator.latent_images import LatentImages, Original, Prepared, Source
from diffmix.generator.prompt_encoder import Conditioning, PromptEncoder
from diffmix.generator.prompt_table import PromptTable
from diffmix.generator.samplers import fuse_sampler_lora, make_scheduler
from diffmix.generator.tiny_vae import use_tiny_vae
from diffmix.plan import MixSpec, denoising_steps
from diffmix.strategies import PromptContext

log = logging.getLogger(__name__)

_PART = 16  # rows of the UNet's batch from which a CPU core is busy with them alone
_SMALLER = "use a GPU with more memory, a smaller --model.resolution or half a --model.precision"
_USUAL_BATCH = 16  # outside of a run nobody has resolved `auto`


class Mixer:
    """A personalized pipeline on one device. Whoever makes it owns it; there is nothing to close.

    `class_names` are in the order of the plan's labels. `concept` is the concept's folder, needed
    by strategies that use one. `template` is the prompt's, with {token}, {class_name} and
    {superclass}. `made_with` is what the run has found `model.attention auto` and
    `model.layout auto` to be; None: this mixer times attention itself. Threads on a CPU are the
    caller's to set. Not thread-safe. Raises `UserError` for a strategy, base, concept or prompt
    that cannot be used.
    """

    def __init__(
        self,
        model: ModelConfig,
        mix: MixConfig,
        class_names: list[str],
        superclass: str,
        concept: str | Path | None = None,
        template: str = "a photo of a {token} {superclass}",
        made_with: Mapping[str, object] | None = None,
    ):
        self.config = mix
        self.strategy = strategies.find(mix.strategy)
        loaded = self._load_concept(model, class_names, concept)
        device, dtype = device_and_dtype(model.precision)
        # LoRAs are fused in fp32: most of one would be lost in the rounding of half precision.
        self.pipe = load_base(model, "cpu", torch.float32)
        # A sampler's is fused on top, by peft, on the CPU.
        place = ("cpu", torch.float32) if mix.sampler_lora else (device, dtype)
        with fitting(f"The base model {model.base}", _SMALLER):
            if loaded:
                loaded.apply(self.pipe, True, self.strategy.generator == "concept", *place)
            if mix.sampler_lora:
                fuse_sampler_lora(self.pipe, mix.sampler_lora)
            if model.tiny_vae:
                use_tiny_vae(self.pipe, model.tiny_vae)
            move(self.pipe, device, dtype)
        self.device, self.dtype = torch.device(device), dtype
        self.resolution = resolution_of(model, self.pipe)
        self.pipe.scheduler = make_scheduler(mix.sampler, self.pipe)
        tokens = [loaded.token(name) if loaded else None for name in class_names]
        self.prompts = [
            prompt(template, token, name, superclass)
            for token, name in zip(tokens, class_names, strict=True)
        ]
        """The prompt of each class, in label order."""
        self.context = PromptContext(
            class_names=class_names,
            superclass=superclass,
            tokens=tokens,
            class_prompts=self.prompts,
            negative_prompt=mix.negative_prompt,
        )
        """What the strategy builds prompts from."""
        side = self.resolution // self.pipe.vae_scale_factor
        self.latent_shape = (1, self.pipe.unet.config.in_channels, side, side)
        self.guided = mix.guidance_scale > 1
        found = made_with or {}
        both = [self.pipe.unet, self.pipe.vae]
        self.layout = set_layout(both, model.layout, found.get("layout"), device)
        self.batch = mix.batch if isinstance(mix.batch, int) else _USUAL_BATCH
        """Mixes that a call usually has. Fewer are filled up to it where the UNet is compiled; more
        are taken as they come.
        """
        self.attention = choose_attention(
            self.pipe.unet,
            model.attention,
            (self.batch * (1 + self.guided), *self.latent_shape[1:]),
            found.get("attention"),
        )
        self.compiled, self.fp16_accumulation = model.compile, model.fp16_accumulation
        self._scope, self._graphs_before = model.compile_scope, graphs() if model.compile else 0
        if model.compile:
            compile_parts(self.pipe, model.compile_scope)
        self.images = LatentImages(
            self.pipe,
            self.resolution,
            self.device,
            self.batch if model.compile and model.compile_scope == "all" else None,
        )
        self.parts = Parts(f"One mix of {self.resolution} px", _SMALLER)
        """How many mixes go through the UNet at once: a chunk, until memory runs out."""
        self._text = PromptTable(
            PromptEncoder(self.pipe, self.resolution), [*self.prompts, mix.negative_prompt]
        )
        self._cores = torch.get_num_threads()  # whatever thread calls later
        self._threads: ThreadPoolExecutor | None = None
        log.info(
            "mixer on %s in %s, %d px, attention %s",
            self.device,
            dtype,
            self.resolution,
            self.attention,
        )

    def _load_concept(
        self, model: ModelConfig, class_names: list[str], folder: str | Path | None
    ) -> Concept | None:
        """The concept that the strategy needs, checked; None where it needs none."""
        if not self.strategy.uses_concept:
            return None
        asked = f"--mix.strategy {self.config.strategy}"
        if folder is None:
            raise UserError(
                f"{asked} needs a concept; set --personalize.concept or personalize first."
            )
        concept = Concept.load(folder)
        concept.check_matches(class_names, base_fingerprint(model), str(folder))
        if self.strategy.generator == "tokens" and not concept.tokens:
            raise UserError(
                f"{asked} needs class tokens, but the concept in {folder} has none; choose a "
                "strategy that uses the LoRA, such as diff-mix."
            )
        return concept

    @property
    def made_with(self) -> dict[str, str | int]:
        """How mixes are made here: what beside the plan may decide over their last bits."""
        on_gpu = self.device.type == "cuda"
        found: dict[str, str | int] = {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "precision": number_format(self.dtype, self.fp16_accumulation),
            "attention": self.attention,
            "layout": self.layout,
            "compile": self._scope if self.compiled else "off",
        }
        for name, parts in (
            ("mixes_at_once", self.parts),
            ("decoded_at_once", self.images.decoder),
            ("encoded_at_once", self.images.encoder),
        ):
            if parts.halved and parts.most:
                found[name] = parts.most
        return found

    @property
    def graphs(self) -> int:
        """Graphs that torch.compile has made since this mixer began; 0 where it is off."""
        return graphs() - self._graphs_before if self.compiled else 0

    def prepare(
        self, specs: Sequence[MixSpec], sources: Sequence[Original | None]
    ) -> list[Prepared | None]:
        """The sources, decoded and resized, for `mix`. It uses no device: any thread may call it
        while another one mixes.
        """
        if self.strategy.from_noise:
            return [None] * len(specs)
        return [
            self.images.prepare(spec.source_id, source)
            for spec, source in zip(specs, sources, strict=True)
        ]

    @torch.inference_mode()
    def mix(
        self, specs: Sequence[MixSpec], sources: Sequence[Original | Prepared | None]
    ) -> list[Image.Image]:
        """One RGB image for each spec, in order, of its source's own size (of the model's size for
        mixes from noise).

        `sources` are image files' bytes, PIL images or what `prepare` gave; None for strategies
        from noise. All specs must run the same number of denoising steps, as the specs of one chunk
        of a plan do. Raises `ValueError` where they do not, or where a source is missing, and
        `UserError` where memory is too small for a single mix. For fewer than all it is halved, now
        and later: see `parts`.
        """
        if not specs:
            return []
        total = self.config.num_inference_steps
        steps = {int(denoising_steps(spec.strength, total)) for spec in specs}
        if len(steps) != 1 or 0 in steps:
            raise ValueError(
                f"one batch must run one number of denoising steps, 1 or more, not {sorted(steps)}"
            )
        encoded: Sequence[Source | None] = [None] * len(specs)
        if not self.strategy.from_noise:
            encoded = self.images.encode_all([spec.source_id for spec in specs], sources)
        denoise, run = self.strategy.denoise or Mixer.denoise, steps.pop()
        latents = torch.cat(
            list(
                self.parts.of(
                    len(specs), lambda rows: denoise(self, specs[rows], encoded[rows], run)
                )
            )
        )
        decoded = (
            Image.fromarray(pixels) for part in self.images.decode(latents) for pixels in part
        )
        made = []
        for image, source in zip(decoded, encoded, strict=True):
            if source and source.size != image.size:
                image = image.resize(source.size, Image.Resampling.BILINEAR)
            made.append(image)
        return made

    def denoise(
        self, specs: Sequence[MixSpec], sources: Sequence[Source | None], steps: int
    ) -> Float32[Tensor, "n channels height width"]:
        """The mixes' latents after the last `steps` of the schedule."""
        scheduler, guidance = self.pipe.scheduler, self.config.guidance_scale
        total = self.config.num_inference_steps
        # This also forgets the last call. On the CPU, where its arithmetic waits for no GPU.
        scheduler.set_timesteps(total, device="cpu")
        begin = total - steps
        timesteps = scheduler.timesteps[begin:]
        scheduler.set_begin_index(begin)
        # Noise is drawn on the CPU, mix by mix: first the posterior's, then what is added, as the
        # stock pipelines do.
        generators = [torch.Generator("cpu").manual_seed(spec.seed) for spec in specs]
        latents = self._start(sources, generators)
        if self.strategy.from_noise:
            latents = latents * scheduler.init_noise_sigma
        else:
            noise = self._noise(generators)
            latents = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(specs)))
        # A compiled UNet is compiled for each shape: a short call is filled up with copies of its
        # last mix.
        full = min(self.batch, self.parts.most or self.batch)
        missing = max(0, full - len(specs)) if self.compiled else 0
        conditional, both = self._conditioning([*specs, *[specs[-1]] * missing])
        low, high = (total * share for share in self.config.guidance_interval)
        on_device = timesteps.to(self.device)
        for step in range(begin, total):
            guided = self.guided and low <= step < high
            inputs = torch.cat([latents, latents[-1:].expand(missing, -1, -1, -1)]).to(self.dtype)
            text = both if guided else conditional
            with kernels(self.attention), adding_in_fp16(self.fp16_accumulation):
                predicted = self._predict(
                    torch.cat([inputs] * (1 + guided)), on_device[step - begin], text
                ).float()
            if guided:
                unconditional, text_driven = predicted.chunk(2)
                predicted = unconditional + guidance * (text_driven - unconditional)
            latents = scheduler.step(
                predicted[: len(specs)],
                timesteps[step - begin],
                latents,
                generator=generators,
                return_dict=False,
            )[0]
        return latents

    def _conditioning(self, specs: Sequence[MixSpec]) -> tuple[Conditioning, Conditioning]:
        """(the mixes' prompts, their negative prompts followed by their prompts)."""
        wanted = [(self.strategy.prompt(self.context, spec), spec.target_label) for spec in specs]
        place = len(self.prompts)
        negative = [(self.strategy.negative_prompt(self.context, spec), place) for spec in specs]
        return self._text.rows(wanted), self._text.rows([*negative, *wanted])

    def _predict(
        self,
        inputs: Float[Tensor, "m channels height width"],
        timestep: Tensor,
        text: Conditioning,
    ) -> Float[Tensor, "m channels height width"]:
        """The UNet's output. On a CPU the batch is cut into one part for each thread.

        A core works through a part of its own a third faster than two cores share each of the
        UNet's small operations.
        """
        threads = self._cores
        shared = self.device.type == "cpu" and not self.compiled and threads > 1
        if not shared or len(inputs) < _PART * threads:
            return self.pipe.unet(inputs, timestep, **text.unet_inputs(), return_dict=False)[0]
        if self._threads is None:
            self._threads = one_core_each(threads)

        @torch.inference_mode()  # a thread does not inherit it
        def predict(rows: slice) -> Tensor:
            return self.pipe.unet(
                inputs[rows], timestep, **text.rows(rows).unet_inputs(), return_dict=False
            )[0]

        edges = [len(inputs) * part // threads for part in range(threads + 1)]
        return torch.cat(list(self._threads.map(predict, map(slice, edges, edges[1:]))))

    def _start(
        self, sources: Sequence[Source | None], generators: list[torch.Generator]
    ) -> Float32[Tensor, "n channels height width"]:
        """Noise, or draws from the sources' posteriors, scaled for the UNet."""
        encoded = [source for source in sources if source is not None]
        if not encoded:
            return self._noise(generators)
        latents = torch.cat([source.mean for source in encoded]).float()
        if encoded[0].std is not None:
            std = torch.cat([source.std for source in encoded if source.std is not None]).float()
            latents = latents + std * self._noise(generators)
        return latents * self.pipe.vae.config.scaling_factor

    def _noise(
        self, generators: list[torch.Generator]
    ) -> Float32[Tensor, "n channels height width"]:
        """Standard normal, each from its own generator."""
        drawn = [torch.randn(self.latent_shape, generator=generator) for generator in generators]
        return sent(torch.cat(drawn), self.device)
