"""Three namings of a UNet's LoRA matrices, and conversion between them.

- diffusers: `unet.<module>.to_q.lora.down.weight`, written by `pipe.save_lora_weights` and in the
  concepts of this project;
- attention processors: `<module>.processor.to_q_lora.down.weight`, written by
  `unet.save_attn_procs` up to diffusers 0.25 and by the reference implementation;
- peft: `base_model.model.<module>.to_q.lora_A.weight`, written by `PeftModel.save_pretrained`.

`down` and `A` are [rank, in]; `up` and `B` are [out, rank]. The weight of a layer gets `up @ down`
times a scale. The scale is 1 in the first two namings, and `lora_alpha / r` of
`adapter_config.json` in peft's.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from diffmix.errors import UserError, reason

if TYPE_CHECKING:
    import torch

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
FILES = (DIFFUSERS_FILE, "pytorch_lora_weights.bin", PEFT_FILE)
"""Names that a LoRA file may have. The second is diffusers' older, pickled form."""

_OLD = re.compile(
    r"(?P<module>.+)\.processor\.to_(?P<projection>q|k|v|out)_lora\.(?P<side>down|up)\.weight"
)
_PEFT = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_NEW = re.compile(r"(?P<module>.+)\.lora\.(?P<side>down|up)\.weight")


def find(folder: Path) -> Path | None:
    """The LoRA file in a folder, or None."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read(file: Path) -> dict[str, torch.Tensor]:
    """The matrices of a file: float32, in diffusers' naming, multiplied so that the scale is 1.

    Pickled files are read with `weights_only=True`. Raises `UserError` if the file cannot be read
    or holds anything but LoRA of the UNet's linear layers.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".bin":
            import torch

            state = torch.load(file, map_location="cpu", weights_only=True)
        else:
            state = load_file(file)
        scale = _peft_scale(file.with_name(PEFT_CONFIG)) if file.name == PEFT_FILE else 1.0
        return to_diffusers(state, scale)
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        raise UserError(
            f"{file} cannot be read as LoRA weights ({reason(error)}); copy it again."
        ) from error


def _peft_scale(file: Path) -> float:
    """The scale in an `adapter_config.json`."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.get("rank_pattern") or settings.get("alpha_pattern") or settings.get("use_dora"):
        raise ValueError(
            f"{file.name} has rank_pattern, alpha_pattern or use_dora, which are not supported"
        )
    rank = settings["r"]
    return settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def to_diffusers(state: dict[str, torch.Tensor], scale: float = 1.0) -> dict[str, torch.Tensor]:
    """LoRA of any naming in diffusers' naming, float32, with `scale` put into the `up` matrices.

    Raises `ValueError` for any other key (such as the text encoder's) and if `state` is empty.
    """
    found = {}
    for key, value in state.items():
        name = key.removeprefix("base_model.model.").removeprefix("unet.")
        if match := _OLD.fullmatch(name):
            layer = "to_out.0" if match["projection"] == "out" else f"to_{match['projection']}"
            module = f"{match['module']}.{layer}"
        else:
            match = _PEFT.fullmatch(name) or _NEW.fullmatch(name)
            if not match or name.startswith("text_"):
                raise ValueError(f"{key} is not LoRA of the UNet")
            module = match["module"]
        if match["side"] in ("up", "B"):
            found[f"unet.{module}.lora.up.weight"] = value.float() * scale
        else:
            found[f"unet.{module}.lora.down.weight"] = value.float()
    if not found:
        raise ValueError("it is empty")
    return found


def to_attention_processors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers' naming to that of attention processors.

    Raises `ValueError` for a layer that is not a projection of an attention block.
    """
    found = {}
    for key, value in state.items():
        module, _, rest = key.removeprefix("unet.").partition(".lora.")
        block, _, layer = module.removesuffix(".0").rpartition(".")
        if layer not in ("to_q", "to_k", "to_v", "to_out"):
            raise ValueError(f"{key} is no attention projection")
        found[f"{block}.processor.{layer}_lora.{rest}"] = value
    return found


def to_peft(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers' naming to peft's."""
    sides = {"down.weight": "A", "up.weight": "B"}
    found = {}
    for key, value in state.items():
        module, _, rest = key.removeprefix("unet.").partition(".lora.")
        found[f"base_model.model.{module}.lora_{sides[rest]}.weight"] = value
    return found


def rank_of(state: dict[str, torch.Tensor]) -> int:
    """The rank of the first matrix. `state` has diffusers' naming."""
    return next(value.shape[0] for key, value in state.items() if key.endswith(".lora.down.weight"))


def write_peft(state: dict[str, torch.Tensor], folder: Path, base: str) -> None:
    """Write a folder that `PeftModel.from_pretrained(unet, folder)` reads.

    `state` has diffusers' naming; `base` is the name of the base model.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    layers = set()
    for key in state:
        if match := re.search(r"to_(q|k|v|out\.0)(?=\.lora\.)", key):
            layers.add(match[0])
    rank = rank_of(state)
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=sorted(layers), base_model_name_or_path=base
    )
    config.save_pretrained(str(folder))
    save_file(to_peft(state), folder / PEFT_FILE)
