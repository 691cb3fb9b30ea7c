"""Options of the group `personalize`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PersonalizeConfig:
    """Teaching the base model the user's classes (paper, section 3.2)."""

    concept: str | None = None
    """Folder of a finished concept to use instead of training one. None: train, or reuse the run
    folder's own.
    """
    steps: int = 35_000
    """Optimizer steps. [C] 35,000"""
    batch_size: int = 2
    """Images per worker and step. [C] 2"""
    gradient_accumulation_steps: int = 1
    """Batches whose gradients are added up before one optimizer step."""
    tokens: bool = True
    """Train one new token per class (textual inversion)."""
    lora: bool = True
    """Train LoRA on the UNet's attention projections."""
    lora_rank: int = 10
    """Rank of the LoRA matrices. [C] 10"""
    lora_lr: float = 5e-5
    """Learning rate of the LoRA matrices. [C] 5e-5"""
    token_lr: float = 5e-5
    """Learning rate of the new embedding rows. [C] 5e-5"""
    vectors_per_token: int = 1
    """Embedding rows per class; the paper uses 1."""
    initializer: str = "{superclass}"
    """Text whose mean embedding starts each class's rows; may hold {superclass} and {class_name}."""
    prompts: tuple[str, ...] = ("a photo of a {token} {superclass}",)
    """Prompt templates; one is drawn per image and step, the first is the one that mixes are made
    with. [C]
    """
    prompt_dropout: float = 0.0
    """Probability of training on the empty prompt instead, which keeps classifier-free guidance
    calibrated (0 to 1).
    """
    flip: bool = True
    """Flip training images at random. [C]"""
    class_balanced: bool = False
    """Draw classes uniformly instead of images uniformly (long-tailed data). [C]"""
    snr_gamma: float | None = None
    """Min-SNR loss weighting's gamma, 5 is usual. None: off."""
    noise_offset: float = 0.0
    """Standard deviation of a per-channel offset added to the noise; 0 is off."""
    prior_weight: float = 0.0
    """Weight of prior preservation (DreamBooth): the loss on images of the superclass that the base
    model made; 1 is usual. 0: off.
    """
    prior_images: int = 200
    """Images of the superclass that the base model makes for prior preservation, once, into the run
    folder's `prior/`.
    """
    use_8bit_adam: bool = False
    """Keep AdamW's state in 8 bits, which needs bitsandbytes; saves memory with large bases and
    ranks.
    """
    weight_decay: float = 1e-2
    """AdamW's weight decay, on the LoRA matrices only."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    gradient_checkpointing: bool = False
    """Trade UNet recomputation for memory."""
    large_batch: int = 1
    """Fold this many steps into one: batch_size times this, steps divided by this, learning rates
    and weight decay times its square root.
    """
    compile: bool = False
    """Compile the UNet's blocks with torch.compile (on a GPU, pays off after some thousand steps)."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
