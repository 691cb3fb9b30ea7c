"""Options of the group `personalize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from diffmix.options.markers import Path, Share, Unit, Usual


@dataclass(frozen=True, kw_only=True)
class PersonalizeConfig:
    """Teaching the base model the classes (paper, section 3.2)."""

    concept: Usual[Path | None] = None
    """Folder of a finished concept to use. None: the run folder's own concept, trained if missing.
    """
    data_seed: NonNegativeInt | None = None
    """Seed of the images that the concept is trained on. None: `data.seed`, the classifier's. With
    another seed the concept sees images that the classifier is not given: a leak, which the
    reference implementation's few-shot scripts have. [C] another than the classifier's
    """
    steps: Usual[Annotated[PositiveInt, Unit("steps")]] = 35_000
    """Optimizer steps. [C] 35,000"""
    resolution: Annotated[PositiveInt | None, Unit("pixels")] = None
    """Side of the square images that are trained on. None: the side that mixes are made at. [C]
    224; 512 at the paper's submission
    """
    resize_mode: Literal["shorter", "squash"] = "shorter"
    """What is resized to `resolution`: the shorter side, or both sides. `shorter` then trains on a
    random square part of the longer side; `squash` sees all of it, out of proportion. [C] shorter
    """
    cached_crops: Annotated[NonNegativeInt, Unit("crops")] = 0
    """Random crops of each image that are encoded before the first step, of which each step draws
    one. It saves time with many steps for few images. 0: a new crop at every step. [C] 0
    """
    batch_size: Annotated[PositiveInt, Unit("images")] = 2
    """Images per worker and batch. [C] 2"""
    gradient_accumulation_steps: Annotated[PositiveInt, Unit("batches")] = 1
    """Batches whose gradients are added up before an optimizer step."""
    global_batch_size: Annotated[PositiveInt | None, Unit("images")] = None
    """Images of a step, over all workers and batches together. Their number then does not change
    what is trained, and `batch_size` follows from it. None: `batch_size` for each worker and batch.
    [C] 8: 2 on each of 4 GPUs
    """
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
    initializer: Annotated[NonNegativeInt | str, Field(union_mode="left_to_right")] = "{superclass}"
    """What each class's rows start from: the mean embedding of a text, or a token by its number. A
    text may hold {superclass} and {class_name}. [C] 42170, a part of a word
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
    """AdamW's weight decay, on the LoRA matrices only. [C] 0.01"""
    token_weight_decay: NonNegativeFloat = 0.0
    """AdamW's weight decay on the new embedding rows. [C] 0.01"""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient norm above which gradients are scaled down. [C] 1"""
    clip_tokens: bool = True
    """Count and scale down the gradients of the new embedding rows too, not of LoRA alone. [C]
    False
    """
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
    cuda_graph: bool = False
    """Record a step's passes as a CUDA graph and replay it. It spares a GPU the wait for small
    kernels to be started, with small batches. Off, because no GPU has run it yet.
    """
    checkpoint_every: Annotated[PositiveInt, Unit("steps")] = 500
    """Steps between checkpoints."""
