"""The personalization run: plain torch, on one process or on each of several that
`torch.distributed` connects.
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffmix.config import ModelConfig, PersonalizeConfig
from diffmix.errors import UserError
from diffmix.generator.base_model import (
    base_fingerprint,
    device_and_dtype,
    load_base,
    resolution_of,
    text_parts,
)
from diffmix.generator.concept import Concept, concept_settings, prompt
from diffmix.personalize.batches import Batches
from diffmix.personalize.large_batch import folded
from diffmix.personalize.latents import LatentCache
from diffmix.personalize.modules import DenoisingLoss, add_lora, add_rows
from diffmix.personalize.optimizer import check_optimizer, make_optimizer
from diffmix.personalize.prior import prior_images, prior_prompt
from diffmix.storage import Folder

if TYPE_CHECKING:
    from diffmix.datasets.real import RealSet
    from diffmix.generator.base_model import Pipeline

CHECKPOINT_FILE = "personalize.pt"


def train_concept(
    model: ModelConfig,
    personalize: PersonalizeConfig,
    real: RealSet,
    out: str | Path,
    seed: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    prior: Folder | None = None,
    resume_from: str | Path | None = None,
    on_checkpoint: Callable[[Path | None, int], None] | None = None,
    on_step: Callable[[int, torch.Tensor], None] | None = None,
) -> Concept:
    """Train class tokens and LoRA on `real` and write the concept folder `out` on rank 0; every
    rank gets its description.

    With `world_size` over 1 the default process group has to be there already. `prior` keeps prior
    preservation's images, None: `prior/` beside `out`. `on_step(done, loss)` is called on every
    rank after each step (`large_batch` makes them fewer) with this rank's loss, a scalar on the
    device that may still be computing: reading it waits. `on_checkpoint(folder, done)` is called on
    every rank after each `checkpoint_every` steps; `folder` is a temporary one that is gone after
    the call, and None but on rank 0. A run resumed with `resume_from`, such a folder, ends with the
    weights that the uninterrupted run would have had. Raises `UserError` for a base model, prompts
    or a checkpoint that cannot be used.
    """
    device, dtype = device_and_dtype(model.precision)
    check_optimizer(personalize)
    settings, personalize = concept_settings(personalize), folded(personalize)
    painted = None
    if personalize.prior_weight:
        prior = prior or Folder(str(Path(out).absolute().parent / "prior"))
        painted = prior_images(
            model, real.superclass, personalize.prior_images, seed, prior, rank, world_size
        )
    pipe = load_base(model, "cpu", dtype)
    tokens, module = _prepare(pipe, model, personalize, real, seed, device)
    latents = [
        LatentCache(
            pipe.vae, images, resolution_of(model, pipe), personalize.flip, rank, world_size
        )
        for images in (real, painted)
        if images is not None
    ]
    pipe.vae.to("cpu")  # not needed any more
    batch_size, accumulation = personalize.batch_size, personalize.gradient_accumulation_steps
    batches = Batches(
        latents[0],
        real.labels,
        personalize,
        module.num_timesteps,
        seed,
        batch_size * accumulation * world_size,
        *latents[1:],
    )

    trained = {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    optimizer = make_optimizer(trained, personalize)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    identity: dict[str, Any] = {
        "settings": settings,
        "seed": seed,
        "data": real.fingerprint,
        "base": base_fingerprint(model),
    }
    start = (
        _load_checkpoint(Path(resume_from), identity, trained, optimizer, scaler)
        if resume_from
        else 0
    )

    parallel: nn.Module = module
    if world_size > 1:
        parallel = nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)
    for step in range(start, personalize.steps):
        loss = torch.zeros((), device=device)
        for micro in range(accumulation):
            first = (micro * world_size + rank) * batch_size
            batch = batches.draw(step, range(first, first + batch_size), len(real.class_names))
            is_last = micro == accumulation - 1
            # Gradients are exchanged once per step.
            quiet = contextlib.nullcontext() if is_last or world_size == 1 else parallel.no_sync()  # type: ignore[operator]
            with quiet:
                with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                    part = (
                        parallel(*(tensor.to(device, non_blocking=True) for tensor in batch))
                        / accumulation
                    )
                scaler.scale(part).backward()
            loss += part.detach()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(trained.values(), personalize.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if on_step:
            on_step(done, loss)
        if on_checkpoint and done % personalize.checkpoint_every == 0 and done < personalize.steps:
            with tempfile.TemporaryDirectory(prefix="diffmix-") as folder:
                if rank == 0:
                    state = {
                        "weights": {name: value.detach().cpu() for name, value in trained.items()},
                        "optimizer": optimizer.state_dict(),
                    }
                    torch.save(
                        {
                            **state,
                            "scaler": scaler.state_dict(),
                            "identity": identity,
                            "step": done,
                        },
                        Path(folder) / CHECKPOINT_FILE,
                    )
                on_checkpoint(Path(folder) if rank == 0 else None, done)

    concept = Concept(
        class_names=list(real.class_names),
        superclass=real.superclass,
        tokens=tokens,
        vectors_per_token=personalize.vectors_per_token if tokens else 0,
        lora_rank=personalize.lora_rank if personalize.lora else 0,
        base=model.base,
        revision=model.revision,
        base_fingerprint=identity["base"],
        steps=personalize.steps,
        seed=seed,
        data_fingerprint=real.fingerprint,
        settings=identity["settings"],
    )
    if rank != 0:
        return concept
    embeds, lora = _weights(pipe, tokens, personalize)
    return concept.save(out, embeds[0], lora, *embeds[1:])


def _prepare(
    pipe: Pipeline,
    model: ModelConfig,
    personalize: PersonalizeConfig,
    real: RealSet,
    seed: int,
    device: str,
) -> tuple[dict[str, str], DenoisingLoss]:
    """Freeze the base, add what is trained, and move it all to `device`. Gives class name -> token
    (empty without) and the loss.
    """
    encoders = [encoder for _, encoder in text_parts(pipe)]
    for part in (pipe.unet, pipe.vae, *encoders):
        part.requires_grad_(False)
    tokens: dict[str, str] = {}
    if personalize.tokens:
        tokens = {name: f"<class_{label}>" for label, name in enumerate(real.class_names)}
        starts = [
            prompt(personalize.initializer, None, name, real.superclass)
            for name in real.class_names
        ]
        add_rows(pipe, list(tokens.values()), starts, personalize.vectors_per_token)
    if personalize.lora:
        add_lora(pipe.unet, personalize.lora_rank, seed)
    if personalize.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    # gradient checkpointing works in this mode only; Stable Diffusion has no dropout
    pipe.unet.train()
    if personalize.compile:
        pipe.unet.compile_repeated_blocks()
    for part in (pipe.unet, pipe.vae, *encoders):
        part.to(device)
    texts = [
        prompt(template, tokens.get(name), name, real.superclass)
        for name in real.class_names
        for template in personalize.prompts
    ]
    texts += ["", prior_prompt(real.superclass)]  # in the order of `Batch.prompts`
    return tokens, DenoisingLoss(
        pipe, texts, resolution_of(model, pipe), personalize.tokens, personalize.snr_gamma
    )


def _load_checkpoint(
    folder: Path,
    identity: dict,
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> int:
    """Restore a checkpoint in place; gives the number of steps done."""
    try:
        state = torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
        had = state["identity"]
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"The personalization checkpoint in {folder} cannot be read; delete it to start again."
        ) from error
    if had != identity:
        raise UserError(
            f"The personalization checkpoint in {folder} is of a run with other settings, data or base; choose another --out."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    return int(state["step"])


def _weights(
    pipe: Pipeline, tokens: dict[str, str], personalize: PersonalizeConfig
) -> tuple[list[dict], dict]:
    """token -> rows [vectors, dim] of each text encoder, and the LoRA in diffusers' naming."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    embeds: list[dict[str, torch.Tensor]] = [{}]
    if tokens:
        rows = [
            encoder.get_input_embeddings().rows.detach().split(personalize.vectors_per_token)
            for _, encoder in text_parts(pipe)
        ]
        embeds = [dict(zip(tokens.values(), part, strict=True)) for part in rows]
    lora = (
        convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
        if personalize.lora
        else {}
    )
    return embeds, lora
