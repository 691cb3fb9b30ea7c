"""A concept in the form of the reference implementation's `train_lora.py`.

It has pickled tokens and a LoRA file, but no description. `learned_embeds-steps-last.bin` holds a
dict with `learned_embeds_dict` (token -> vector [dim]), `name2placeholder` (class name -> token)
and `placeholder2name`. The LoRA file may have any naming of `diffmix.formats.lora`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmix.errors import UserError
from diffmix.formats import lora

if TYPE_CHECKING:
    import torch

EMBEDS_FILE = "learned_embeds-steps-last.bin"


def found_in(folder: Path) -> bool:
    """Whether the folder holds such a concept."""
    return (folder / EMBEDS_FILE).is_file()


def description(folder: Path) -> dict:
    """The fields of `Concept`, as far as they are known.

    Raises `UserError` if the files cannot be read.
    """
    tokens = {str(name): str(token) for name, token in _read(folder)["name2placeholder"].items()}
    file = lora.find(folder)
    return {
        "class_names": list(tokens),
        "superclass": "",
        "tokens": tokens,
        "vectors_per_token": 1,
        "lora_rank": lora.rank_of(lora.read(file)) if file else 0,
        "base": "unknown",
        "revision": None,
        "base_fingerprint": "",
        "steps": 0,
        "seed": 0,
        "data_fingerprint": "",
    }


def embeds(folder: Path) -> dict[str, torch.Tensor]:
    """Token -> vector [dim] or [1, dim], as stored. Raises `UserError` if the file cannot be
    read.
    """
    return dict(_read(folder)["learned_embeds_dict"])


def write(
    folder: Path,
    tokens: dict[str, str],
    vectors: dict[str, torch.Tensor],
    weights: dict[str, torch.Tensor],
) -> None:
    """Write the two files.

    `tokens` maps class names to tokens, `vectors` tokens to float [1, dim], and `weights` is LoRA
    in diffusers' naming. Slashes in class names become spaces, as in the reference implementation's
    data sets. Raises `UserError` for what the reference implementation does not support: several
    vectors per token, and LoRA outside the attention projections.
    """
    import torch
    from safetensors.torch import save_file

    if any(len(rows) != 1 for rows in vectors.values()):
        raise UserError(
            "The concept has several vectors per token, but the reference implementation supports "
            "only one; export it as peft-concept."
        )
    names = {name.replace("/", " "): token for name, token in tokens.items()}
    stored = {
        "learned_embeds_dict": {token: rows[0].clone() for token, rows in vectors.items()},
        "name2placeholder": names,
        "placeholder2name": {token: name for name, token in names.items()},
    }
    try:
        old = lora.to_attention_processors(weights)
    except ValueError as error:
        raise UserError(
            f"The concept's LoRA cannot be written for the reference implementation ({error})."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(stored, folder / EMBEDS_FILE)
    if old:
        save_file(old, folder / lora.DIFFUSERS_FILE)


def _read(folder: Path) -> dict:
    import pickle

    import torch

    try:
        stored = torch.load(folder / EMBEDS_FILE, map_location="cpu", weights_only=True)
        return {key: stored[key] for key in ("learned_embeds_dict", "name2placeholder")}
    except (OSError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{folder / EMBEDS_FILE} cannot be read as the reference implementation's tokens; "
            "copy it again."
        ) from error
