"""Options of the group `mix`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, MinLen
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from diffmix import strategies
from diffmix.options.markers import OneOf, Path, Share, Unit, Usual


def pair_weights() -> Iterable[str]:
    """What `mix.target_sampling` may name."""
    from diffmix.strategies.pair_weights import PAIR_WEIGHTS

    return PAIR_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """What is mixed with what, and how (paper, sections 3.3 and 3.4)."""

    strategy: Usual[Annotated[str, OneOf(strategies.names, own=True)]] = "diff-mix"
    """Generator-target: {real, ti, diff}-{gen, aug, mix}. The generator is the base model
    (`real`), or has trained tokens (`ti`), or trained tokens and LoRA (`diff`). A mix starts from
    noise (`gen`), or from an image whose class it keeps (`aug`) or changes (`mix`). [P] diff-mix
    """
    strength: Usual[Annotated[tuple[Annotated[float, Interval(gt=0, le=1)], ...], MinLen(1)]] = (
        0.7,
    )
    """Share of the noise schedule that is run. Higher values change more of the image. Of several
    values, one is drawn uniformly for each mix. [C] 0.7
    """
    strength_beta: tuple[PositiveFloat, PositiveFloat] | None = None
    """Beta distribution that strengths are drawn from: its two parameters. Strengths are clipped to
    0.1 to 0.9. None: `strength` is used.
    """
    multiplier: Usual[Annotated[PositiveFloat, Unit("mixes")]] = 5.0
    """Mixes per real training image. [C] 5"""
    count: Annotated[PositiveInt | None, Unit("mixes")] = None
    """Mixes in all. None: `multiplier` decides."""
    gamma: Usual[PositiveFloat] = 0.5
    """Soft label's exponent: the target gets strength ** gamma. [P] 0.5 or 0.8"""
    soft_scale: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Factor on a mix's whole label. [C] 0.9; 1.0 for long-tailed CUB"""
    synthetic_p: Usual[Share] = 0.1
    """Probability that a training sample is a mix. [C] 0.1; .5, .2, .1 for 1, 5, 10 shots"""
    guidance_scale: Usual[NonNegativeFloat] = 7.5
    """Classifier-free guidance; 1 is off. [C] 7.5"""
    num_inference_steps: Usual[Annotated[PositiveInt, Unit("steps")]] = 25
    """Denoising steps of the full schedule. About strength times as many are run. [C] 25"""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Part of the schedule with guidance, from noise (0) to image (1). A step outside it costs
    half.
    """
    sampler: Literal["dpm", "lcm", "tcd"] = "dpm"
    """Sampler: DPM-Solver++ (`dpm`), or a few-step sampler. `lcm` and `tcd` need a base model or a
    `sampler_lora` that was distilled for them. [C] dpm
    """
    sampler_lora: Path | None = None
    """LoRA of a few-step sampler: a safetensors file, a folder with one, or the URI of either.
    LCM-LoRA, Hyper-SD and TCD are such. None: off.
    """
    negative_prompt: str = ""
    """Prompt that guidance leads away from."""
    referred_classes: Annotated[PositiveInt | None, Unit("classes")] = None
    """Target classes that a source class may become. They are drawn once, by `run.seed`. None: all
    classes.
    """
    source_sampling: Literal["class", "image"] = "class"
    """How sources are drawn: uniformly over classes, or uniformly over images. `class` draws a
    class and then an image of it; `image` is for long tails. [C]
    """
    target_sampling: Annotated[str, OneOf(pair_weights)] = "uniform"
    """How target classes are drawn: uniformly, or rare classes more often. `inverse` draws with
    probability proportional to 1 / (class size + 1) and is for long tails. [C] uniform
    """
    target_weighting: Literal["uniform", "inverse"] = "uniform"
    """How training draws mixes from its pool: all alike, or rare target classes more often.
    `inverse` draws a class with probability proportional to 1 / (class size + 1), then one of its
    mixes. It is for long tails. [C]
    """
    batch: Annotated[PositiveInt | Literal["auto"], Unit("mixes")] = 16
    """Mixes in a chunk: the mixer's batch, and the unit of retry and resume. `auto` measures, when
    the run starts, how many keep a mixer's device busy and fit in its memory.
    """
    image_format: Literal["jpeg", "png", "webp"] = "jpeg"
    """Format that mixes are stored in."""
    image_quality: Annotated[int, Interval(ge=1, le=100)] = 95
    """Quality of JPEG and WebP files."""
