"""Four namings of a UNet's LoRA matrices, and conversion between them.

- diffusers: `unet.<module>.to_q.lora.down.weight`, written by `pipe.save_lora_weights` and in the
  concepts of this project;
- attention processors: `<module>.processor.to_q_lora.down.weight`, written by
  `unet.save_attn_procs` up to diffusers 0.25 and by the reference implementation;
- peft: `base_model.model.<module>.to_q.lora_A.weight`, written by `PeftModel.save_pretrained`;
- kohya: `lora_unet_<module with underscores>_to_q.lora_down.weight`, written by kohya's scripts and
  by most programs with a window. It is read, and never written.

`down` and `A` are [rank, in]; `up` and `B` are [out, rank]. The weight of a layer gets `up @ down`
times alpha / rank, or alpha / sqrt(rank) for rank-stabilized LoRA. Alpha stands in peft's
`adapter_config.json`, or in the file's header (`lora_adapter_metadata`, which diffusers' training
scripts write), or in a key `<layer>.alpha` of each layer, or nowhere: then it is the rank. Where it
is in several places, the first of these counts, as in stock diffusers.
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
    from diffusers import UNet2DConditionModel

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_OLD_PEFT_FILE = "adapter_model.bin"
FILES = (DIFFUSERS_FILE, "pytorch_lora_weights.bin", PEFT_FILE, _OLD_PEFT_FILE)
"""Names that a LoRA file usually has. Two are older, pickled forms."""

_HEADER = "lora_adapter_metadata"
_KOHYA = re.compile(r"lora_unet_\w+\.(lora_down\.weight|lora_up\.weight|alpha)")
# What peft may start LoRA from that takes something out of the base's weights.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

_OLD = re.compile(
    r"(?P<module>.+)\.processor\.to_(?P<projection>q|k|v|out)_lora\.(?P<side>down|up)\.weight"
)
_PEFT = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_NEW = re.compile(r"(?P<module>.+)\.lora\.(?P<side>down|up)\.weight")


def find(folder: Path) -> Path | None:
    """The LoRA file in a folder, or None: one of a usual name, else the only `.safetensors` beside
    the tokens.

    Raises `UserError` where several could be meant.
    """
    usual = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if usual:
        return usual
    found = sorted(folder.glob("*.safetensors"))
    found = [file for file in found if not file.name.startswith(("learned_embeds", "."))]
    if len(found) > 1:
        raise UserError(
            f"{folder} has several files that could be its LoRA ({found[0].name}, {found[1].name}"
            f"{', ...' if len(found) > 2 else ''}); call the right one {DIFFUSERS_FILE}."
        )
    return found[0] if found else None


def read(file: Path) -> dict[str, torch.Tensor]:
    """The matrices of a file: float32, in diffusers' naming, multiplied so that the scale is 1.

    Pickled files are read with `weights_only=True`. Raises `UserError` if the file cannot be read
    or holds anything but LoRA of the UNet.
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
        settings = _header(file)
        if file.name in (PEFT_FILE, _OLD_PEFT_FILE):
            config = file.with_name(PEFT_CONFIG).read_text(encoding="utf-8")
            settings = dict(json.loads(config))
        return to_diffusers(state, settings)
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


def header_scale(file: Path) -> str:
    """What a file's header says of its scale, as text; empty where it says nothing or 1."""
    found = _header(file) or {}
    names = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
    said = {name: found.get(name) for name in names}
    plain = said["r"] == said["lora_alpha"] and not (said["alpha_pattern"] or said["use_rslora"])
    return "" if plain and not said["rank_pattern"] else json.dumps(said)


def _header(file: Path) -> dict | None:
    """peft's settings of the UNet's LoRA, as diffusers' `save_lora_weights` puts them into a file's
    header. None without.
    """
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, "pt") as opened:
            settings = json.loads((opened.metadata() or {}).get(_HEADER, "{}"))
    except SafetensorError:
        return None
    found = {key.removeprefix("unet."): settings[key] for key in settings if key[:5] == "unet."}
    return found or None


def to_diffusers(
    state: dict[str, torch.Tensor], settings: dict | None = None
) -> dict[str, torch.Tensor]:
    """LoRA of any naming in diffusers' naming, float32, with its scale put into the `up` matrices.

    `settings` are peft's, as in `adapter_config.json`. Without them the layers' own alphas decide.
    Raises `ValueError` for any other key (such as the text encoder's), for half a layer, for what
    is no plain LoRA, and if `state` is empty.
    """
    if any(key.startswith("lora_unet_") for key in state):
        state = _from_kohya(state)
    matrices: dict[str, dict[str, torch.Tensor]] = {}
    alphas = {}
    for key, value in state.items():
        if key.endswith(".alpha"):
            alphas[_layer_of_alpha(key)] = float(value)
        else:
            module, side = _module(key)
            matrices.setdefault(module, {})[side] = value.float()
    if not matrices:
        raise ValueError("it is empty")
    for module in alphas.keys() - matrices.keys():
        raise ValueError(f"{module} has an alpha and no matrices")
    found = {}
    for module, sides in matrices.items():
        if set(sides) != {"up", "down"}:
            raise ValueError(f"{module} has only one of its two matrices")
        up, down = sides["up"], sides["down"]
        rank = down.shape[0]
        if up.shape[1] != rank:
            raise ValueError(f"{module} has matrices of ranks {up.shape[1]} and {rank}")
        if not (up.isfinite().all() and down.isfinite().all()):
            raise ValueError(f"{module} has values that are not finite")
        scale = _scale(settings, module, rank) if settings else alphas.get(module, rank) / rank
        found[f"unet.{module}.lora.up.weight"] = up * scale
        found[f"unet.{module}.lora.down.weight"] = down
    return found


def check_layers(state: dict[str, torch.Tensor], unet: UNet2DConditionModel) -> None:
    """Raise `ValueError` for LoRA of a layer that the UNet lacks or has in another size. peft would
    leave the former out with a warning.
    """
    layers = dict(unet.named_modules())
    for key, value in state.items():
        module, side = _module(key)
        weight = getattr(layers.get(module), "weight", None)
        if weight is None:
            raise ValueError(f"it is for a layer {module}, which the base does not have")
        own, wanted = (value.shape[0], weight.shape[0])
        if side == "down":
            own, wanted = value.shape[1], weight.shape[1]
        if own != wanted:
            raise ValueError(f"{module} has {wanted} values in the base and {own} in the LoRA")


def _module(key: str) -> tuple[str, str]:
    """A matrix's layer in the UNet, and `up` or `down`."""
    name = key.removeprefix("base_model.model.").removeprefix("unet.")
    if match := _OLD.fullmatch(name):
        layer = "to_out.0" if match["projection"] == "out" else f"to_{match['projection']}"
        return f"{match['module']}.{layer}", match["side"]
    match = _PEFT.fullmatch(name) or _NEW.fullmatch(name)
    if not match or name.startswith("text_"):
        raise ValueError(f"{key} is not LoRA of the UNet")
    return match["module"], {"A": "down", "B": "up"}.get(match["side"], match["side"])


def _layer_of_alpha(key: str) -> str:
    stem = key.removesuffix(".alpha")
    for ending in ("", ".down.weight", ".lora.down.weight"):
        try:
            return _module(stem + ending)[0]
        except ValueError:
            continue
    raise ValueError(f"{key} is not of a LoRA of the UNet")


def _scale(settings: dict, module: str, rank: int) -> float:
    """What peft multiplies a layer's matrices with, by its settings."""
    from peft.utils.other import get_pattern_key

    start = settings.get("init_lora_weights")
    if settings.get("use_dora"):
        raise ValueError("it is DoRA, which is not supported")
    if isinstance(start, str) and start.lower().startswith(_CHANGE_THE_BASE):
        raise ValueError(f"it needs a base changed by {start}; convert it to plain LoRA with peft")

    def of(pattern: str, default: str) -> float:
        chosen = settings.get(pattern) or {}
        return chosen.get(get_pattern_key(chosen, module), settings[default])

    if of("rank_pattern", "r") != rank:
        raise ValueError(f"{module} has rank {rank}, its settings say {of('rank_pattern', 'r')}")
    alpha = of("alpha_pattern", "lora_alpha")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _from_kohya(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """kohya's names as diffusers spells them; alphas stay keys of their own."""
    from types import SimpleNamespace

    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    for key in state:
        name, _, side = key.partition(".")
        whole = side == "alpha" or {f"{name}.lora_down.weight", f"{name}.lora_up.weight"} <= set(
            state
        )
        if not _KOHYA.fullmatch(key) or not whole:
            raise ValueError(f"{key} is not LoRA of the UNet")
    # Blocks are renumbered for SDXL alone, the only base whose blocks kohya's scripts number anew.
    sdxl = SimpleNamespace(layers_per_block=2)
    converted, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(
        dict(state), unet_config=sdxl
    )
    return {**converted, **(alphas or {})}


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

    `state` has diffusers' naming and scale 1; `base` is the name of the base model.
    """
    from collections import Counter

    from peft import LoraConfig
    from safetensors.torch import save_file

    ranks = {
        key.removeprefix("unet.").removesuffix(".lora.down.weight"): value.shape[0]
        for key, value in state.items()
        if key.endswith(".lora.down.weight")
    }
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {f"^{re.escape(name)}": own for name, own in ranks.items() if own != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(ranks),
        rank_pattern=others,
        alpha_pattern=others,
        base_model_name_or_path=base,
    )
    config.save_pretrained(str(folder))
    save_file(to_peft(state), folder / PEFT_FILE)
