"""What the UNet is told: texts through one text encoder (Stable Diffusion 1.x and 2.x) or two
(SDXL), in one form.

Everything that differs between the two kinds of base is here; whoever calls the UNet passes
`Conditioning.unet_inputs()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from diffmix.generator.base_model import is_xl, text_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffmix.generator.base_model import Pipeline

_AT_ONCE = 64  # prompts in one call of the text encoders


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of n samples."""

    hidden_states: torch.Tensor
    """[n, L, dim]: for cross-attention; of two text encoders, side by side."""
    pooled: torch.Tensor | None
    """[n, pooled dim]: SDXL's embedding of the whole prompt, None for other bases."""
    time_ids: torch.Tensor | None
    """float32 [6]: SDXL's micro-conditioning (original size, crop's corner, target size, in
    pixels).
    """

    def rows(self, index: Sequence[int] | torch.Tensor | slice) -> Conditioning:
        """The samples `index` (int64 [m]), which may repeat, or those of a slice, which are not
        copied.
        """
        return Conditioning(
            self.hidden_states[index],
            None if self.pooled is None else self.pooled[index],
            self.time_ids,
        )

    def unet_inputs(self) -> dict:
        """The keyword arguments that a UNet takes beside latents and timestep."""
        inputs: dict = {"encoder_hidden_states": self.hidden_states}
        if self.pooled is not None and self.time_ids is not None:
            inputs["added_cond_kwargs"] = {
                "text_embeds": self.pooled,
                "time_ids": self.time_ids.expand(len(self.pooled), -1),
            }
        return inputs


class PromptEncoder(nn.Module):
    """A pipeline's tokenizers and text encoders, which stay the pipeline's: what is added to them
    later is used.

    `side` in pixels is what an SDXL base is told as original and target size, uncropped, in
    training as in mixing: what the stock pipelines say for an image of that side. The empty prompt
    is what guidance leads away from: where an SDXL base was made for zeros there
    (`force_zeros_for_empty_prompt`), it is encoded as zeros, as stock does where no negative prompt
    is given.
    """

    def __init__(self, pipe: Pipeline, side: int):
        super().__init__()
        self.pipe = pipe
        self.tokenizers = [tokenizer for tokenizer, _ in text_parts(pipe)]
        self.text_encoders = nn.ModuleList([encoder for _, encoder in text_parts(pipe)])
        self.zero_empty = bool(is_xl(pipe) and pipe.config.force_zeros_for_empty_prompt)
        self.register_buffer("empty_ids", self.tokenize([""]), persistent=False)
        self.register_buffer(
            "time_ids",
            torch.tensor([side, side, 0, 0, side, side]).float().to(self.empty_ids.device),
            persistent=False,
        )

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """int64 [n, encoders, L] on the text encoders' device; longer texts are cut, as CLIP's are."""
        ids = [
            tokenizer(
                [self.pipe.maybe_convert_prompt(text, tokenizer) for text in texts],
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for tokenizer in self.tokenizers
        ]
        return torch.stack(ids, dim=1).to(self.text_encoders[0].device)

    def forward(self, ids: torch.Tensor) -> Conditioning:
        """Of token ids int64 [n, encoders, L], in the text encoders' dtype, differentiable."""
        if len(self.text_encoders) == 1:
            return Conditioning(self.text_encoders[0](ids[:, 0])[0], None, None)
        outputs = [
            encoder(ids[:, place], output_hidden_states=True)
            for place, encoder in enumerate(self.text_encoders)
        ]
        hidden_states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = outputs[-1][0]
        if self.zero_empty:
            empty = (ids == self.empty_ids).all(dim=(1, 2))
            hidden_states = hidden_states.masked_fill(empty[:, None, None], 0.0)
            pooled = pooled.masked_fill(empty[:, None], 0.0)
        return Conditioning(hidden_states, pooled, self.time_ids)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Conditioning:
        """The conditioning of texts, once and for all."""
        parts = [self(ids) for ids in self.tokenize(texts).split(_AT_ONCE)]
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(
            torch.cat([part.hidden_states for part in parts]),
            torch.cat(pooled) if pooled else None,
            parts[0].time_ids,
        )
