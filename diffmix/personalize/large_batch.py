"""How many images a step has, and the preset for large batches: the same samples in fewer steps, at
a higher learning rate.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, sqrt

from diffmix.config import PersonalizeConfig
from diffmix.errors import UserError


def folded(personalize: PersonalizeConfig) -> PersonalizeConfig:
    """The options with `large_batch` = k worked in: batches k times as large, 1/k of the steps,
    learning rates times sqrt(k).

    The square root is Adam's scaling rule (Malladi et al. 2022, arXiv 2205.10287). Weight decay
    acts at each step in proportion to the learning rate. It is multiplied by sqrt(k) too, so that
    all steps together decay as much as before.
    """
    k, together = personalize.large_batch, personalize.global_batch_size
    return replace(
        personalize,
        large_batch=1,
        batch_size=personalize.batch_size * k,
        global_batch_size=None if together is None else together * k,
        steps=ceil(personalize.steps / k),
        checkpoint_every=ceil(personalize.checkpoint_every / k),
        lora_lr=personalize.lora_lr * sqrt(k),
        token_lr=personalize.token_lr * sqrt(k),
        weight_decay=personalize.weight_decay * sqrt(k),
        token_weight_decay=personalize.token_weight_decay * sqrt(k),
    )


def of_a_step(personalize: PersonalizeConfig, workers: int) -> tuple[int, int]:
    """Batches and images of a step, over all workers.

    Raises `UserError` where a batch would be empty.
    """
    accumulated = personalize.gradient_accumulation_steps
    batches = workers * accumulated
    images = personalize.global_batch_size or personalize.batch_size * batches
    if images < batches:
        raise UserError(
            f"--personalize.global_batch_size is {images}, but each of {workers} workers needs an "
            f"image for each of {accumulated} accumulated batches; choose at least {batches}."
        )
    return batches, images
