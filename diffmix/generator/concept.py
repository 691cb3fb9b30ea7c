"""A personalized generator as a folder: the classes' tokens and the UNet's LoRA. Stock diffusers
loads it too.

- `pytorch_lora_weights.safetensors`: `pipe.load_lora_weights(folder)`.
- `learned_embeds.safetensors`: token -> float32 [vectors, dim]. `load_textual_inversion` takes one
  token at a time, so `pipe.load_textual_inversion([{token: rows} for token, rows in
  load_file(path).items()])`; a token of several vectors is then written once in a prompt and
  diffusers spells it out. For an SDXL base the file is what diffusers' advanced DreamBooth scripts
  write: `clip_l` and `clip_g`, float32 [all vectors, dim], the rows of the first and of the second
  text encoder. Each is loaded by itself, with the tokens' `spellings`, in order:
  `pipe.load_textual_inversion(rows["clip_l"], token=spellings, text_encoder=pipe.text_encoder,
  tokenizer=pipe.tokenizer)` and likewise `clip_g` with `text_encoder_2` and `tokenizer_2`;
  `Concept.spellings` has that list. Then `pipe.text_encoder_2.text_model.eos_token_id =
  pipe.tokenizer_2.eos_token_id`, or stock reads the embedding of the whole prompt at the class
  token and makes other images (see `PromptEncoder`).
- `concept.json`: which class has which token, and what the concept was made from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diffmix.datasets.class_names import plain, spoken
from diffmix.errors import UserError, reason
from diffmix.format_version import with_version, without_version
from diffmix.formats import lora, reference_concept
from diffmix.generator.token_vectors import (
    add_tokens,
    check_width,
    checked,
    spell,
    split_rows,
)

if TYPE_CHECKING:
    import torch

    from diffmix.generator.base_model import Pipeline

XL_KEYS = ("clip_l", "clip_g")
"""The rows of an SDXL's first and second text encoder in `EMBEDS_FILE`."""
LORA_FILE = "pytorch_lora_weights.safetensors"
EMBEDS_FILE = "learned_embeds.safetensors"
CONCEPT_FILE = "concept.json"


def load_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """A file's tensors. Raises `ValueError` where it is no such file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file.name} is broken: {reason(error)}") from error


_FIELDS = {"token", "class_name", "superclass"}


def prompt(template: str, token: str | None, class_name: str, superclass: str) -> str:
    """A prompt from its template, which may have {token}, {class_name} and {superclass}.

    Without a token (None), the class's name takes its place. Raises `UserError` for another
    placeholder or an unpaired brace.
    """
    name = spoken(class_name)
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if fields <= _FIELDS:
            return template.format(token=token or name, class_name=name, superclass=superclass)
    except (ValueError, IndexError):
        pass
    raise UserError(
        f"The prompt '{template}' cannot be used; write {{token}}, {{class_name}} or "
        f"{{superclass}} and no other braces."
    )


@dataclass(frozen=True, kw_only=True)
class Concept:
    """The description of a concept folder; `folder` has its weights."""

    class_names: list[str]
    superclass: str
    tokens: dict[str, str]
    """Class name -> token as written in a prompt. Empty: the concept is a LoRA alone."""
    vectors_per_token: int
    lora_rank: int
    """0: the concept is tokens alone."""
    base: str
    """The base model as the option had it, for people. `base_fingerprint` is what is compared."""
    revision: str | None
    base_fingerprint: str
    """Empty: it is not known (a folder of the reference code), and any base model is taken."""
    steps: int
    seed: int
    data_fingerprint: str
    settings: dict = field(default_factory=dict)
    """The `PersonalizeConfig` options that the weights depend on, as JSON values."""
    folder: Path | None = None

    @staticmethod
    def load(folder: str | Path) -> Concept:
        """Read the description of a concept folder, or of a folder of the reference code. Weights
        stay on disk.

        Raises `UserError` for a folder that is missing, incomplete or not a concept.
        """
        folder = Path(folder)
        if not (folder / CONCEPT_FILE).exists() and reference_concept.found_in(folder):
            return Concept(**reference_concept.description(folder), folder=folder)
        try:
            stored = json.loads((folder / CONCEPT_FILE).read_text(encoding="utf-8"))
            concept = Concept(**without_version(stored, f"{folder}/{CONCEPT_FILE}"), folder=folder)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{folder} is not a concept (its {CONCEPT_FILE} is missing or unreadable); "
                "personalize again or choose another folder."
            ) from error
        wanted = [EMBEDS_FILE] * bool(concept.tokens) + [LORA_FILE] * bool(concept.lora_rank)
        for name in wanted:
            if not (folder / name).is_file():
                raise UserError(
                    f"The concept in {folder} is incomplete ({name} is missing); copy it again or "
                    "personalize again."
                )
        return concept

    @property
    def fingerprint(self) -> str:
        """SHA-256 over description and weights, in hex, wherever the folder lies."""
        assert self.folder is not None
        digest = hashlib.sha256(json.dumps(self._stored(), sort_keys=True).encode())
        names = (EMBEDS_FILE, reference_concept.EMBEDS_FILE, *lora.FILES, lora.PEFT_CONFIG)
        for name in names:
            file = self.folder / name
            digest.update(file.read_bytes() if file.exists() else b"")
        found = lora.find(self.folder) if self.lora_rank else None
        if found and found.name not in names:
            digest.update(found.read_bytes())
        if found:
            # Up to version 0.1 the header was not heeded: such mixes are others.
            digest.update(lora.header_scale(found).encode())
        return digest.hexdigest()

    def save(
        self,
        folder: str | Path,
        embeds: dict[str, torch.Tensor],
        lora: dict[str, torch.Tensor],
        embeds_2: dict[str, torch.Tensor] | None = None,
    ) -> Concept:
        """Write the folder atomically, replacing an older one, and return the concept there.

        `embeds`: token -> float32 [vectors, dim], empty without tokens. `embeds_2`: the same for an
        SDXL's second text encoder. `lora`: the UNet's LoRA in diffusers' naming, empty without
        LoRA. Raises `UserError` if the folder cannot be written.
        """
        import torch
        from diffusers import StableDiffusionPipeline
        from safetensors.torch import save_file

        folder = Path(folder)
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        old = beside.with_name(f"{beside.name}.old")
        try:
            beside.mkdir(parents=True)
            if embeds:
                stored = embeds
                if embeds_2:
                    tables = (
                        torch.cat([table[token] for token in self.tokens.values()])
                        for table in (embeds, embeds_2)
                    )
                    stored = dict(zip(XL_KEYS, tables, strict=True))
                save_file(
                    {key: rows.detach().float().cpu().contiguous() for key, rows in stored.items()},
                    beside / EMBEDS_FILE,
                )
            if lora:
                StableDiffusionPipeline.save_lora_weights(beside, unet_lora_layers=lora)
            (beside / CONCEPT_FILE).write_text(
                json.dumps(with_version(self._stored()), indent=2, ensure_ascii=False),
                encoding="utf-8",
            )
            if folder.exists():
                os.replace(folder, old)  # a folder that holds files cannot be replaced in one step
            os.replace(beside, folder)
        except OSError as error:
            raise UserError(
                f"The concept cannot be written to {folder} ({error.strerror or error}); choose "
                "another --out."
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
        return dataclasses.replace(self, folder=folder)

    def check_matches(self, class_names: list[str], base_fingerprint: str, where: str) -> None:
        """Raise `UserError` if this concept, found at `where`, lacks a class or was made on another
        base model.
        """
        lacking = [name for name in class_names if self._name(name) is None]
        if lacking:
            raise UserError(
                f"The concept in {where} was made for other classes (it has no {lacking[0]!r}"
                + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
                + "); choose another --personalize.concept or personalize again."
            )
        if self.base_fingerprint and self.base_fingerprint != base_fingerprint:
            raise UserError(
                f"The concept in {where} was made on another base model, {self.base}"
                + (f" at revision {self.revision}" if self.revision else "")
                + "; set --model.base to it or personalize again."
            )

    @property
    def spellings(self) -> list[str]:
        """The tokenizer entries of all tokens, in the order of the rows `clip_l` and `clip_g` of an
        SDXL's concept.
        """
        return [
            name for token in self.tokens.values() for name in spell(token, self.vectors_per_token)
        ]

    def embeds(self, encoder: int = 0) -> dict[str, torch.Tensor]:
        """Token -> float32 [vectors, dim] of a text encoder: 0, or 1 for the second of an SDXL.
        Empty without tokens.
        """
        assert self.folder is not None
        try:
            if (self.folder / EMBEDS_FILE).exists():
                stored = load_safetensors(self.folder / EMBEDS_FILE)
                if set(stored) == set(XL_KEYS):
                    rows = stored[XL_KEYS[encoder]]
                    stored = split_rows(self.tokens, self.vectors_per_token, rows)
                elif encoder:
                    return {}
            elif encoder or not self.tokens:
                return {}
            else:
                stored = reference_concept.embeds(self.folder)
            return checked(self.tokens, self.vectors_per_token, stored)
        except ValueError as error:
            raise UserError(
                f"The token vectors in {self.folder} cannot be used ({error}); train them again or "
                "choose another --personalize.concept."
            ) from error

    def check_vectors(self, widths: Sequence[int]) -> None:
        """Raise `UserError` for token vectors that text encoders of these widths cannot read."""
        try:
            for encoder, width in enumerate(widths if self.tokens else ()):
                table = self.embeds(encoder)
                if not table or (len(widths) == 1 and self.embeds(1)):
                    raise ValueError(
                        f"token vectors for {1 if not table else 2} text encoders, where the base "
                        f"has {len(widths)}"
                    )
                check_width(next(iter(table.values())).shape[1], width)
        except ValueError as error:
            raise self._does_not_fit(error) from error

    def lora_weights(self) -> dict[str, torch.Tensor]:
        """The UNet's LoRA in float32, in diffusers' naming with `unet.` in front. Empty for a
        concept of tokens alone.
        """
        assert self.folder is not None
        file = lora.find(self.folder)
        return lora.read(file) if self.lora_rank and file else {}

    def token(self, class_name: str) -> str | None:
        """A class's token. None: the concept has no tokens, or not this class."""
        return self.tokens.get(self._name(class_name) or "")

    def _name(self, class_name: str) -> str | None:
        """A class's name as the concept spells it. Other people's files differ in underscores,
        slashes and capitals.
        """
        if class_name in self.class_names:
            return class_name
        alike = [name for name in self.class_names if plain(name) == plain(class_name)]
        return alike[0] if len(alike) == 1 else None

    def apply(
        self,
        pipe: Pipeline,
        use_tokens: bool = True,
        use_lora: bool = True,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Put the tokens in the tokenizers and text encoders of a pipeline that is on the CPU in
        float32, and add the LoRA to its UNet's weights. What gets some of it is then on `device` in
        `dtype`; None: float32.

        Raises `UserError` if the weights do not fit this pipeline.
        """
        from diffmix.generator.fused_lora import fuse

        try:
            if use_tokens and self.tokens:
                add_tokens(pipe, self.embeds(), self.embeds(1))
            if use_lora and self.lora_rank:
                fuse(self.lora_weights(), pipe.unet, device, dtype or pipe.unet.dtype)
        except (RuntimeError, ValueError) as error:
            raise self._does_not_fit(error) from error

    def _does_not_fit(self, error: Exception) -> UserError:
        return UserError(
            f"The concept in {self.folder} does not fit the base model ({reason(error)}); it was "
            f"made on {self.base}."
        )

    def _stored(self) -> dict:
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "folder"}
