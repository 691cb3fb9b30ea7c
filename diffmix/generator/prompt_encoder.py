"""What the UNet is told: texts through one text encoder (Stable Diffusion 1.x and 2.x) or two
(SDXL), in one form.

All that differs between the two kinds of base is here. Callers of the UNet pass
`Conditioning.unet_inputs()`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffmix.config import ModelConfig
from diffmix.errors import UserError
from diffmix.generator.base_model import Pipeline, base_path, is_xl, small_file, text_parts

_AT_ONCE = 64  # prompts in one call of the text encoders


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of n samples."""

    hidden_states: Float[Tensor, "n length dim"]
    """For cross-attention; of two text encoders, side by side."""
    pooled: Float[Tensor, "n pooled"] | None
    """SDXL's embedding of the whole prompt. None for other bases."""
    time_ids: Float[Tensor, " 6"] | None
    """SDXL's micro-conditioning in pixels: original size, corner of the crop, target size."""

    def rows(self, index: Sequence[int] | Int[Tensor, " m"] | slice) -> Conditioning:
        """The samples at `index`, which may repeat. Those of a slice are not copied."""
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


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """The samples of all parts, in order. At least one part, all of the same base."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(
        torch.cat([part.hidden_states for part in parts]),
        torch.cat(pooled) if pooled else None,
        parts[0].time_ids,
    )


def end_positions(ids: Int[Tensor, "n length"], end: int) -> Int[Tensor, " n"]:
    """Where each text ends: the place of its first token `end`. CLIP's embedding of the whole text
    is read there.
    """
    return (ids == end).int().argmax(dim=-1)


def check_lengths(model: ModelConfig, prompts: dict[str, str]) -> list[str]:
    """The prompts that the base's text encoder does not read to their end. `prompts` is class name
    -> prompt.

    Raises `UserError` where two classes have the same prompt up to there.
    """
    settings = small_file(model, "tokenizer/tokenizer_config.json")
    known = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    most = known.get("model_max_length", 77) - 2  # beside those of start and end
    if all(len(text.encode()) <= most for text in prompts.values()):
        return []  # a token is of at least one byte
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(
        base_path(model), subfolder="tokenizer", revision=model.revision
    )
    owners: dict[tuple[int, ...], str] = {}
    cut = []
    for class_name, text in prompts.items():
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if len(ids) <= most:
            continue
        cut.append(text)
        other = owners.setdefault(tuple(ids[:most]), class_name)
        if other != class_name:
            raise UserError(
                f"The classes {_short(other)} and {_short(class_name)} have the same prompt in the "
                f"{most} tokens that the base model reads; shorten their names, or choose a "
                "--mix.strategy with class tokens."
            )
    return cut


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:59]}…")


class PromptEncoder(nn.Module):
    """A pipeline's tokenizers and text encoders. They stay the pipeline's: what is added to them
    later is used.

    `side` in pixels is what an SDXL base is told as original and target size, uncropped, in
    training as in mixing. The stock pipelines say the same for an image of that side. The empty
    prompt is what guidance leads away from. Where an SDXL base was made for zeros there
    (`force_zeros_for_empty_prompt`), it is encoded as zeros, as stock does without a negative
    prompt.

    SDXL's embedding of the whole prompt is read at the end of the text. Where the text encoder's
    `eos_token_id` is 2, as in SDXL's own files, transformers reads it at the largest id instead,
    which is the class token: words behind it would have no part in it.
    """

    def __init__(self, pipe: Pipeline, side: int):
        super().__init__()
        self.pipe = pipe
        self.tokenizers = [tokenizer for tokenizer, _ in text_parts(pipe)]
        self.text_encoders = nn.ModuleList([encoder for _, encoder in text_parts(pipe)])
        self.zero_empty = bool(is_xl(pipe) and pipe.config.force_zeros_for_empty_prompt)
        self.register_buffer("empty_ids", self.tokenize([""]), persistent=False)
        sizes = torch.tensor([side, side, 0, 0, side, side]).float().to(self.empty_ids.device)
        self.register_buffer("time_ids", sizes, persistent=False)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "n encoders length"]:
        """Token ids (int64) on the text encoders' device. Longer texts are cut, as CLIP's are."""
        ids = []
        for tokenizer in self.tokenizers:
            spelled = [self.pipe.maybe_convert_prompt(text, tokenizer) for text in texts]
            tokens = tokenizer(
                spelled,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            ids.append(tokens.input_ids)
        return torch.stack(ids, dim=1).to(self.text_encoders[0].device)

    def forward(self, ids: Int[Tensor, "n encoders length"]) -> Conditioning:
        """Of token ids (int64), in the text encoders' dtype, differentiable."""
        if len(self.text_encoders) == 1:
            return Conditioning(self.text_encoders[0](ids[:, 0])[0], None, None)
        outputs = [
            encoder(ids[:, place], output_hidden_states=True)
            for place, encoder in enumerate(self.text_encoders)
        ]
        hidden_states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        ends = end_positions(ids[:, -1], self.tokenizers[-1].eos_token_id)
        rows = torch.arange(len(ids), device=ids.device)
        pooled = self.text_encoders[-1].text_projection(outputs[-1].last_hidden_state[rows, ends])
        if self.zero_empty:
            empty = (ids == self.empty_ids).all(dim=(1, 2))
            hidden_states = hidden_states.masked_fill(empty[:, None, None], 0.0)
            pooled = pooled.masked_fill(empty[:, None], 0.0)
        return Conditioning(hidden_states, pooled, self.time_ids)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Conditioning:
        """The conditioning of texts, once and for all."""
        return join([self(ids) for ids in self.tokenize(texts).split(_AT_ONCE)])
