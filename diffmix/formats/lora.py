"""Names of a UNet's LoRA matrices: diffusers' of today, its old attention processors', and peft's.

| naming | a key | written by | | --- | --- | --- | | diffusers |
`unet.<module>.to_q.lora.down.weight` | `pipe.save_lora_weights`, our concepts | | attention
processors | `<module>.processor.to_q_lora.down.weight` | `unet.save_attn_procs` up to diffusers
0.25, the reference | | peft | `base_model.model.<module>.to_q.lora_A.weight` |
`PeftModel.save_pretrained` |

`down` and `A` are [rank, in], `up` and `B` are [out, rank]; the layer's weight gets `up @ down`
times a scale, which is 1 in the first two and `lora_alpha / r` of `adapter_config.json` in the
third.
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
"""What a LoRA file may be called; the second is diffusers' older, pickled form."""

_OLD = re.compile(
    r"(?P<module>.+)\.processor\.to_(?P<projection>q|k|v|out)_lora\.(?P<side>down|up)\.weight"
)
_PEFT = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_NEW = re.compile(r"(?P<module>.+)\.lora\.(?P<side>down|up)\.weight")


def find(folder: Path) -> Path | None:
    """The LoRA file in a folder, if it has one."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read(file: Path) -> dict[str, torch.Tensor]:
    """A file's matrices in float32, in diffusers' naming of today, scaled so that the scale is 1.

    Pickled files are read with `weights_only=True`. Raises `UserError` for a file that cannot be
    read or that holds something else than LoRA of the UNet's linear layers.
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
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.get("rank_pattern") or settings.get("alpha_pattern") or settings.get("use_dora"):
        raise ValueError(
            f"{file.name} has rank_pattern, alpha_pattern or use_dora, which are not supported"
        )
    rank = settings["r"]
    return settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def to_diffusers(state: dict[str, torch.Tensor], scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The same LoRA in today's naming, whichever of the three it has; `scale` goes into the `up`
    matrices.

    Raises `ValueError` for a key of another kind (the text encoder's, say) and where there is
    nothing.
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
        up = match["side"] in ("up", "B")
        found[f"unet.{module}.lora.{'up' if up else 'down'}.weight"] = value.float() * (
            scale if up else 1.0
        )
    if not found:
        raise ValueError("it is empty")
    return found


def to_attention_processors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Today's naming to the old one. Raises `ValueError` for a layer that is no projection of an
    attention block.
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
    """Today's naming to peft's."""
    sides = {"down": "A", "up": "B"}
    found = {}
    for key, value in state.items():
        module, _, rest = key.removeprefix("unet.").partition(".lora.")
        found[f"base_model.model.{module}.lora_{sides[rest.removesuffix('.weight')]}.weight"] = (
            value
        )
    return found


def rank_of(state: dict[str, torch.Tensor]) -> int:
    """The rank of the first matrix, in today's naming."""
    return next(value.shape[0] for key, value in state.items() if key.endswith(".lora.down.weight"))


def write_peft(state: dict[str, torch.Tensor], folder: Path, base: str) -> None:
    """Write today's naming as the folder that `PeftModel.from_pretrained(unet, folder)` reads."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    layers = {
        match[0] for key in state if (match := re.search(r"to_(q|k|v|out\.0)(?=\.lora\.)", key))
    }
    rank = rank_of(state)
    LoraConfig(
        r=rank, lora_alpha=rank, target_modules=sorted(layers), base_model_name_or_path=base
    ).save_pretrained(str(folder))
    save_file(to_peft(state), folder / PEFT_FILE)
