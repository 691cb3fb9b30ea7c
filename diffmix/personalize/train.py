"""The personalization run: plain torch, in one process or in each of several that
`torch.distributed` connects.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffmix.config import ModelConfig, PersonalizeConfig
from diffmix.generator.base_model import (
    base_fingerprint,
    device_and_dtype,
    load_base,
    resolution_of,
    text_parts,
)
from diffmix.generator.concept import Concept, prompt
from diffmix.generator.device.graph import StepGraph
from diffmix.personalize.batches import Batches
from diffmix.personalize.crops import Images
from diffmix.personalize.large_batch import folded, of_a_step
from diffmix.personalize.latents import FreshLatents, LatentCache, Latents
from diffmix.personalize.modules import (
    DenoisingLoss,
    add_lora,
    add_rows,
    inputs,
    trained_lora,
    trained_rows,
)
from diffmix.personalize.optimizer import check_optimizer, make_optimizer
from diffmix.personalize.prior import prior_images, prior_prompt
from diffmix.personalize.rows import Rows
from diffmix.personalize.settings import all_square, concept_settings
from diffmix.personalize.state import TrainingState
from diffmix.storage import Folder

if TYPE_CHECKING:
    from diffmix.datasets.real import RealSet
    from diffmix.generator.base_model import Pipeline

log = logging.getLogger(__name__)

_GRAPHS = "for one worker, on a GPU, in bf16 or fp32"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How this process takes part in a run. By default it is alone, and starts at the first step.

    None of this changes the weights, except for rounding with another `world_size`.
    """

    rank: int = 0
    world_size: int = 1
    """With more than one process, torch's default process group has to be there already."""
    prior: Folder | None = None
    """Keeps prior preservation's images. None: `prior/` beside the concept folder."""
    resume_from: str | Path | None = None
    """A folder that `on_checkpoint` was given. The resumed run ends with the weights that the
    uninterrupted run would have had.
    """
    on_step: Callable[[int, Tensor], None] | None = None
    """Called as `on_step(done, loss)` on every rank after each step (`large_batch` makes them
    fewer). `loss` is this rank's, a scalar on the device that may still be computing: reading it
    waits.
    """
    on_note: Callable[[str], None] | None = None
    """Called with a sentence for the user, on the rank that has something to say."""
    on_checkpoint: Callable[[Path | None, int], None] | None = None
    """Called as `on_checkpoint(folder, done)` on every rank after each `checkpoint_every` steps.
    `folder` is a temporary one that is deleted after the call; it is None on all ranks but 0.
    """


def train_concept(
    model: ModelConfig,
    personalize: PersonalizeConfig,
    real: RealSet,
    out: str | Path,
    seed: int,
    attempt: Attempt | None = None,
) -> Concept:
    """Train class tokens and LoRA on `real` (paper, section 3.2). Rank 0 writes the concept folder
    `out`; every rank gets its description.

    Raises `UserError` for a base model, a prompt, an optimizer or a checkpoint that cannot be used.
    """
    attempt = attempt or Attempt()
    prior = attempt.prior or Folder(str(Path(out).absolute().parent / "prior"))
    training = ConceptTraining(model, personalize, real, seed, attempt, prior)
    training.run()
    return training.save(out)


class ConceptTraining:
    """One process's part of a personalization run: the model, what is trained in it, and the steps.

    `train_concept` makes it, runs it once, and drops it. The constructor loads the base and encodes
    the images; it restores the checkpoint that the attempt resumes from.
    """

    def __init__(
        self,
        model: ModelConfig,
        personalize: PersonalizeConfig,
        real: RealSet,
        seed: int,
        attempt: Attempt,
        prior: Folder,
    ):
        self.device, self.dtype = device_and_dtype(model.precision)
        self.autocast = self.dtype == torch.float16
        """A UNet in bf16 runs as it is, as in mixers: autocast would make its norms' inputs and
        outputs fp32. In fp16 their gradients could overflow.
        """
        check_optimizer(personalize)
        self.model, self.real, self.seed, self.attempt = model, real, seed, attempt
        self.options = folded(personalize)
        self.parts, self.per_step = of_a_step(self.options, attempt.world_size)
        square = all_square(real)
        self.cropped = personalize.resize_mode == "shorter" and not square
        self.identity: dict[str, Any] = {
            "settings": concept_settings(personalize, square),
            "seed": seed,
            "data": real.fingerprint,
            "base": base_fingerprint(model),
        }
        prior_set = self._prior_images(prior) if self.options.prior_weight else None
        self.pipe = load_base(model, "cpu", self.dtype)
        self.side = resolution_of(model, self.pipe, self.options.resolution)
        self.tokens = self._add_what_is_trained()
        self._move_to_device()
        self.loss = self._loss()
        self.batches = self._batches(prior_set)
        self.state = self._state()
        self.rows = Rows(attempt.world_size == 1, attempt.on_note)
        resume_from = attempt.resume_from
        self.done = self.state.load(Path(resume_from), self.identity) if resume_from else 0
        self.parallel: nn.Module = self.loss
        if attempt.world_size > 1:
            self.parallel = nn.parallel.DistributedDataParallel(self.loss, broadcast_buffers=False)
        self.graph = self._step_graph()

    def run(self) -> None:
        """Take the steps that are left."""
        on_step, on_checkpoint = self.attempt.on_step, self.attempt.on_checkpoint
        while self.done < self.options.steps:
            loss = self.step(self.done)
            self.done += 1
            if on_step:
                on_step(self.done, loss)
            due = self.done % self.options.checkpoint_every == 0
            if on_checkpoint and due and self.done < self.options.steps:
                self._checkpoint(on_checkpoint)

    def step(self, number: int) -> Float[Tensor, ""]:
        """Take step `number`, the first of which is 0. Gives this rank's loss on the device."""
        loss = self.rows.retried(lambda: self._gradients(number), self._forget)
        options = self.options
        self.state.update(options.max_grad_norm, options.clip_tokens, keep=self.graph.is_on)
        return loss

    def _gradients(self, number: int) -> Float[Tensor, ""]:
        """Add up the gradients of step `number`; gives this rank's loss."""
        accumulation = self.options.gradient_accumulation_steps
        loss = torch.zeros((), device=self.device)
        for micro in range(accumulation):
            with self._exchange(is_last=micro == accumulation - 1):
                loss += self._backward(number, micro)
        return loss

    def save(self, out: str | Path) -> Concept:
        """The concept as it is now. Rank 0 writes its folder `out`."""
        options = self.options
        concept = Concept(
            class_names=list(self.real.class_names),
            superclass=self.real.superclass,
            tokens=self.tokens,
            vectors_per_token=options.vectors_per_token if self.tokens else 0,
            lora_rank=options.lora_rank if options.lora else 0,
            base=self.model.base,
            revision=self.model.revision,
            base_fingerprint=self.identity["base"],
            steps=options.steps,
            seed=self.seed,
            data_fingerprint=self.real.fingerprint,
            settings=self.identity["settings"],
        )
        if self.attempt.rank != 0:
            return concept
        embeds = trained_rows(self.pipe, list(self.tokens.values()), options.vectors_per_token)
        lora = trained_lora(self.pipe.unet) if options.lora else {}
        return concept.save(out, embeds[0], lora, *embeds[1:])

    def _prior_images(self, folder: Folder) -> Images:
        count, place = self.options.prior_images, (self.attempt.rank, self.attempt.world_size)
        return prior_images(self.model, self.real.superclass, count, self.seed, folder, *place)

    def _add_what_is_trained(self) -> dict[str, str]:
        """Freeze the base, and add tokens and LoRA to it. Gives class name -> token, empty without
        tokens.
        """
        options, real = self.options, self.real
        for part in self._parts():
            part.requires_grad_(False)
        tokens: dict[str, str] = {}
        if options.tokens:
            tokens = {name: f"<class_{label}>" for label, name in enumerate(real.class_names)}
            start = options.initializer
            starts = [
                start if isinstance(start, int) else prompt(start, None, name, real.superclass)
                for name in real.class_names
            ]
            add_rows(self.pipe, list(tokens.values()), starts, options.vectors_per_token)
        if options.lora:
            add_lora(self.pipe.unet, options.lora_rank, self.seed)
        return tokens

    def _move_to_device(self) -> None:
        """Make the model ready to be trained, on its device."""
        unet = self.pipe.unet
        if self.options.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        # Gradient checkpointing works in training mode only. Stable Diffusion has no dropout, so
        # the mode changes nothing else.
        unet.train()
        if self.options.compile:
            unet.compile_repeated_blocks()
        for part in self._parts():
            part.to(self.device)

    def _parts(self) -> list[nn.Module]:
        pipe: Pipeline = self.pipe
        return [pipe.unet, pipe.vae, *(encoder for _, encoder in text_parts(pipe))]

    def _loss(self) -> DenoisingLoss:
        texts = []  # in the order of `Batch.prompts`
        for name in self.real.class_names:
            for template in self.options.prompts:
                texts.append(prompt(template, self.tokens.get(name), name, self.real.superclass))
        texts += ["", prior_prompt(self.real.superclass)]
        return DenoisingLoss(
            self.pipe, texts, self.side, self.options.tokens, self.options.snr_gamma
        )

    def _batches(self, prior: Images | None) -> Batches:
        """The images' latents, encoded now or later, and the draws from them. `prior` are the prior
        images, which are square.
        """
        fresh = self.cropped and not self.options.cached_crops
        latents: Latents = (
            FreshLatents(self.pipe.vae, self.real, self.side) if fresh else self._cache(self.real)
        )
        prior_latents = None if prior is None else self._cache(prior, crops=0)
        if not fresh:
            self.pipe.vae.to("cpu")  # not needed any more
        return Batches(
            latents,
            self.real.labels,
            self.options,
            self.loss.num_timesteps,
            self.seed,
            self.per_step,
            prior_latents,
        )

    def _cache(self, images: Images, crops: int | None = None) -> LatentCache:
        if crops is None:
            crops = self.options.cached_crops if self.cropped else 0
        return LatentCache(
            self.pipe.vae,
            images,
            self.side,
            self.options.flip,
            self.attempt.rank,
            self.attempt.world_size,
            crops,
            self.seed,
        )

    def _state(self) -> TrainingState:
        parameters = {
            name: parameter
            for name, parameter in self.loss.named_parameters()
            if parameter.requires_grad
        }
        scaler = torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)
        return TrainingState(parameters, make_optimizer(parameters, self.options), scaler)

    def _exchange(self, is_last: bool) -> contextlib.AbstractContextManager:
        """Ranks exchange gradients once in a step: after its last part."""
        if is_last or self.attempt.world_size == 1:
            return contextlib.nullcontext()
        return self.parallel.no_sync()  # type: ignore[operator]

    def _backward(self, step: int, micro: int) -> Float[Tensor, ""]:
        """Add the gradients of part `micro` of a step; gives its share of the loss."""
        part = micro * self.attempt.world_size + self.attempt.rank
        edges = [self.per_step * each // self.parts for each in (part, part + 1)]
        # Shares of the global batch may differ by one. All count alike: gradients are averaged.
        divisor = self.per_step / self.parts
        num_classes = len(self.real.class_names)
        batch = self.batches.draw(step, range(*edges), num_classes, divisor)
        total = torch.zeros((), device=self.device)
        for rows in self.rows.of(batch):
            total += self.graph(inputs(rows, self.device, padded=self.graph.is_on))
        return total

    def _work(self, taken: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Forward and backward pass: adds gradients, gives the share of the loss."""
        with torch.autocast(self.device, self.dtype, enabled=self.autocast):
            loss = self.parallel(*taken) / self.options.gradient_accumulation_steps
        self.state.scaler.scale(loss).backward()
        return loss.detach()

    def _step_graph(self) -> StepGraph:
        trained = list(self.state.parameters.values())
        graph = StepGraph(self._work, trained, self.attempt.on_note or (lambda _: None))
        possible = self.device == "cuda" and self.attempt.world_size == 1 and not self.autocast
        if self.options.cuda_graph and not possible:
            log.warning("--personalize.cuda_graph is %s: going on without", _GRAPHS)
        graph.is_on = self.options.cuda_graph and possible
        return graph

    def _forget(self) -> None:
        """Drop the gradients of a step that was broken off, and the graph that adds to them."""
        self.graph.drop()
        self.state.forget()

    def _checkpoint(self, on_checkpoint: Callable[[Path | None, int], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="diffmix-") as folder:
            if self.attempt.rank == 0:
                self.state.save(Path(folder), self.identity, self.done)
            on_checkpoint(Path(folder) if self.attempt.rank == 0 else None, self.done)
