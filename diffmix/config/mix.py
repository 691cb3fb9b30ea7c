"""Options of the group `mix`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Strategy = Literal[
    "real-gen", "real-aug", "real-mix", "ti-aug", "ti-mix", "diff-gen", "diff-aug", "diff-mix"
]


@dataclass
class MixConfig:
    """What is mixed with what, and how (paper, sections 3.3 and 3.4)."""

    strategy: Strategy = "diff-mix"
    """{real, ti, diff}-{gen, aug, mix}: base model, tokens only, or tokens + LoRA; from noise, same
    class, or other class.
    """
    strength: tuple[float, ...] = (0.7,)
    """Share of the noise schedule that is run, in (0, 1]; several values: drawn uniformly for each
    mix. [P]
    """
    strength_beta: tuple[float, float] | None = None
    """Draw strengths from Beta(a, b) clipped to [0.1, 0.9] instead of from `strength`. None: off."""
    multiplier: float = 5.0
    """Mixes per real training image. [C] 5"""
    count: int | None = None
    """Mixes in all; overrides `multiplier`. None: use `multiplier`."""
    gamma: float = 0.5
    """Exponent of the soft label: the target class gets strength ** gamma. [P] 0.5 or 0.8"""
    soft_scale: float = 1.0
    """Factor on a mix's whole label, (0, 1]. [C] 0.9 for CUB and Flowers, 1.0 for long-tailed CUB"""
    synthetic_p: float = 0.1
    """Probability that a training sample is a mix, [0, 1]. [C] 0.1; 0.3 for few shots and long
    tails
    """
    guidance_scale: float = 7.5
    """Classifier-free guidance; 1 is off. [C] 7.5"""
    num_inference_steps: int = 25
    """Denoising steps of the full schedule; about strength times as many are run. [C] 25"""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Part of the schedule, from noise (0) to image (1), in which guidance is on; a step outside it
    costs half.
    """
    sampler: Literal["dpm", "lcm", "tcd"] = "dpm"
    """DPM-Solver++, or a few-step sampler for a base or a `sampler_lora` that was distilled for it.
    [C] dpm
    """
    sampler_lora: str | None = None
    """LoRA of a few-step sampler (LCM-LoRA, Hyper-SD, TCD): a safetensors file, or a folder with
    one. None: off.
    """
    negative_prompt: str = ""
    """Prompt that guidance leads away from."""
    referred_classes: int | None = None
    """Number of target classes that each source class may become, drawn once by seed. None: all."""
    source_sampling: Literal["class", "image"] = "class"
    """Draw the source class uniformly and then an image of it, or uniformly over all images (long
    tails). [C]
    """
    target_sampling: Literal["uniform", "inverse"] = "uniform"
    """Draw target classes uniformly, or with probability proportional to 1 / (class size + 1) (long
    tails). [C]
    """
    batch: int | Literal["auto"] = 16
    """Mixes in one chunk: the mixer's batch, and the unit of retry and resume. `auto`: as many as
    keep a mixer's device busy and fit in its memory, measured when the run starts.
    """
    image_format: Literal["jpeg", "png", "webp"] = "jpeg"
    """Format that mixes are stored in."""
    image_quality: int = 95
    """Quality of JPEG and WebP files, 1 to 100."""
