"""The record of a strategy, and the prompts that most strategies use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from diffmix.strategies.mix_spec import MixSpec


@dataclass(frozen=True, kw_only=True)
class PromptContext:
    """What a strategy may build prompts from. Lists are in the order of the plan's labels."""

    class_names: list[str]
    superclass: str
    tokens: list[str | None]
    """Each class's token in the concept. None: the concept has none, or the base model is used."""
    class_prompts: list[str]
    """The first of `personalize.prompts`, filled in for each class."""
    negative_prompt: str
    """As `mix.negative_prompt` has it."""


PromptRule = Callable[[PromptContext, MixSpec], str]
"""The text for one mix. It must depend on its two arguments alone."""


def target_prompt(context: PromptContext, spec: MixSpec) -> str:
    """The target class's prompt (paper, section 3.3)."""
    return context.class_prompts[spec.target_label]


def configured_negative_prompt(context: PromptContext, spec: MixSpec) -> str:
    """`mix.negative_prompt`, for every mix."""
    return context.negative_prompt


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to make a mix. The name is part of the plan's identity: a strategy that makes other
    images needs another name.
    """

    name: str
    generator: Literal["base", "tokens", "concept"]
    """The base model as it is, with the concept's tokens, or with its tokens and its LoRA."""
    from_noise: bool = False
    """A mix starts from noise alone, at strength 1 and without a source image."""
    target: Literal["same", "any"] = "any"
    """The source's own class, or any class, drawn by the plan's pair weights."""
    prompt: PromptRule = target_prompt
    """What guidance leads to."""
    negative_prompt: PromptRule = configured_negative_prompt
    """What guidance leads away from. Without effect where `mix.guidance_scale` is 1."""
    denoise: Callable[..., Any] | None = None
    """In place of `Mixer.denoise`, for masks, inversion and the like: called as `denoise(mixer,
    specs, sources, steps)`, it returns latents, float32 [n, channels, height, width], and may call
    `mixer.denoise`. None: `Mixer.denoise` itself.
    """

    @property
    def uses_concept(self) -> bool:
        """Whether it needs a personalized generator."""
        return self.generator != "base"
