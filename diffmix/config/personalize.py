"""Options of the group `personalize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from diffmix.options.markers import Path, Share, Unit, Usual


@dataclass(frozen=True, kw_only=True)
class PersonalizeConfig:
    """Teaching the base model the classes (paper, section 3.2)."""

    concept: Usual[Path | None] = None
    """Folder of a finished concept to use. None: the run folder's own concept, trained if missing.
    """
    steps: Usual[Annotated[PositiveInt, Unit("steps")]] = 35_000
    """Optimizer steps. [C] 35,000"""
    batch_size: Annotated[PositiveInt, Unit("images")] = 2
    """Images per worker and step. [C] 2"""
    gradient_accumulation_steps: Annotated[PositiveInt, Unit("batches")] = 1
    """Batches whose gradients are added up before an optimizer step."""
    tokens: bool = True
    """Train one new token per class (textual inversion)."""
    lora: bool = True
    """Train LoRA on the UNet's attention projections."""
    lora_rank: Usual[PositiveInt] = 10
    """Rank of the LoRA matrices. [C] 10"""
    lora_lr: PositiveFloat = 5e-5
    """Learning rate of the LoRA matrices. [C] 5e-5"""
    token_lr: PositiveFloat = 5e-5
    """Learning rate of the new embedding rows. [C] 5e-5"""
    vectors_per_token: Annotated[PositiveInt, Unit("rows")] = 1
    """Embedding rows per class. [P] 1"""
    initializer: str = "{superclass}"
    """Text whose mean embedding each class's rows start from. It may hold {superclass} and
    {class_name}.
    """
    prompts: Annotated[tuple[str, ...], MinLen(1)] = ("a photo of a {token} {superclass}",)
    """Prompt templates; one is drawn per image and step. Mixes are made with the first. [C]"""
    prompt_dropout: Share = 0.0
    """Probability that the empty prompt is trained on. It keeps classifier-free guidance
    calibrated.
    """
    flip: bool = True
    """Flip training images at random. [C]"""
    class_balanced: bool = False
    """Draw classes uniformly instead of images uniformly. For long tails. [C]"""
    snr_gamma: PositiveFloat | None = None
    """Gamma of min-SNR loss weighting; 5 is usual. None: off."""
    noise_offset: NonNegativeFloat = 0.0
    """Standard deviation of a per-channel offset added to the noise; 0 is off."""
    prior_weight: NonNegativeFloat = 0.0
    """Weight of prior preservation (DreamBooth); 0 is off and 1 is usual. It adds the loss on
    images of the superclass that the base model made.
    """
    prior_images: Annotated[PositiveInt, Unit("images")] = 200
    """Images that the base model makes for prior preservation. They are made once, into the run
    folder's `prior/`.
    """
    use_8bit_adam: bool = False
    """Keep AdamW's state in 8 bits. This saves memory with large bases and ranks, and needs
    bitsandbytes.
    """
    weight_decay: NonNegativeFloat = 1e-2
    """AdamW's weight decay, on the LoRA matrices only."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient norm above which gradients are scaled down."""
    gradient_checkpointing: bool = False
    """Compute the UNet's activations twice to save memory."""
    large_batch: Annotated[PositiveInt, Unit("steps")] = 1
    """Steps that are folded into one. `batch_size` is multiplied by it, `steps` divided by it, and
    learning rates and weight decay multiplied by its square root.
    """
    compile: bool = False
    """Compile the UNet's blocks with torch.compile. On a GPU this pays off after some thousand
    steps.
    """
    checkpoint_every: Annotated[PositiveInt, Unit("steps")] = 500
    """Steps between checkpoints."""
