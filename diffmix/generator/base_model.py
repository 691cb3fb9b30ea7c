"""The base model: the text-to-image pipeline that everything starts from. It is found, checked,
loaded and fingerprinted here.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtyping import Float32
from PIL.Image import Image

from diffmix.config import ModelConfig
from diffmix.config.model import Precision
from diffmix.errors import UserError, reason
from diffmix.storage import local_folder, local_version

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from torch import Tensor
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline
else:
    Pipeline = Tensor = Any  # for annotations read at run time: torch, diffusers come late

NANO_FOLDER = Path(__file__).parent.parent / "nano" / "base"
"""The embedded base model."""

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_XL_PARTS = ("text_encoder_2", "tokenizer_2")
_IN_BASE = ("model_index.json", *_PARTS, *_XL_PARTS)  # not the same weights in other forms
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_WHOLE_FILE = 64 * 2**20  # files of more bytes are hashed in samples
_SAMPLES, _SAMPLE = 16, 2**16


def base_path(model: ModelConfig) -> str:
    """Where the base model is: a folder (of a URI this node's copy) or a hub id, not looked up.

    Raises `UserError` for a folder that is missing or is not such a pipeline.
    """
    base = str(NANO_FOLDER) if model.base == "nano" else local_folder(model.base, _IN_BASE)
    folder = Path(base).expanduser()
    if not folder.is_dir():
        if _HUB_ID.fullmatch(model.base) and not folder.exists():
            return model.base
        raise UserError(
            f"There is no base model at {model.base}; set --model.base to a diffusers folder, a "
            "hub id or nano."
        )
    for name in _parts(model, _read_index(model, folder / "model_index.json")):
        if not (folder / name).is_dir():
            raise UserError(
                f"The base model {model.base} is incomplete ({name}/ is missing); copy it again or "
                "choose another --model.base."
            )
    return str(folder)


def check_base(model: ModelConfig) -> None:
    """Raise `UserError` for a base model that is missing or cannot be used, before anything large
    is loaded.

    For a hub model one small file is read, from the hub or from this machine's cache.
    """
    _index(model)


def text_widths(model: ModelConfig) -> list[int]:
    """How many values a token's vector has in each text encoder. Raises `UserError` as `check_base`
    does.
    """
    widths = []
    for part in _parts(model, _index(model)):
        if part.startswith("text_encoder"):
            config = small_file(model, f"{part}/config.json")
            try:
                widths.append(int(json.loads(config.read_text(encoding="utf-8"))["hidden_size"]))
            except (OSError, ValueError, KeyError, TypeError):
                raise UserError(
                    f"The base model {model.base} has no readable {part}/config.json; copy it "
                    "again or choose another --model.base."
                ) from None
    return widths


def _index(model: ModelConfig) -> dict:
    """The base's model_index.json, checked."""
    index = _read_index(model, small_file(model, "model_index.json"))
    _parts(model, index)
    return index


def small_file(model: ModelConfig, name: str) -> Path:
    """A small file of the base: its own, or from the hub or this machine's cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    path = base_path(model)
    if Path(path).is_dir():
        return Path(path) / name
    try:
        return Path(hf_hub_download(path, name, revision=model.revision))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise _not_on_hub(model) from error


def _read_index(model: ModelConfig, file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"{model.base} is not a diffusers pipeline (it has no readable model_index.json); "
            "set --model.base to a folder that save_pretrained wrote, a hub id or nano."
        ) from None


def _parts(model: ModelConfig, index: dict) -> tuple[str, ...]:
    """The names of the pipeline's parts. Raises `UserError` if it is not Stable Diffusion."""
    parts = _PARTS + _XL_PARTS * any(name in index for name in _XL_PARTS)
    for name in parts:
        # an optional part that is left out is [null, null]
        if not isinstance(index.get(name), list) or None in index[name]:
            raise UserError(
                f"{model.base} is not a Stable Diffusion 1.x, 2.x or XL pipeline (it has no "
                f"{name}); choose another --model.base."
            )
    return parts


def _not_on_hub(model: ModelConfig) -> UserError:
    revision = f" at revision {model.revision}" if model.revision else ""
    return UserError(
        f"The base model {model.base}{revision} is no local folder and cannot be loaded from the "
        "hub; check the id, the revision, the connection and (for a private model) the login."
    )


def load_base(model: ModelConfig, device: str, dtype: torch.dtype) -> Pipeline:
    """The base pipeline on `device` in `dtype`, without safety checker, watermark and progress
    bars.

    Raises `UserError` if the folder or hub model cannot be read or used.
    """
    import diffusers
    import transformers
    from safetensors import SafetensorError

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    path, index = base_path(model), _index(model)
    kind, options = (
        diffusers.StableDiffusionPipeline,
        {"safety_checker": None, "requires_safety_checker": False},
    )
    if _XL_PARTS[0] in index:
        kind, options = (
            diffusers.StableDiffusionXLPipeline,
            {"image_encoder": None, "add_watermarker": False},
        )
    try:
        # A folder may have pickled weights, which are read without running code; from the hub none
        # are taken.
        safe = None if Path(path).is_dir() else True
        pipe = kind.from_pretrained(
            path,
            revision=model.revision,
            feature_extractor=None,
            use_safetensors=safe,
            **options,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if not Path(path).is_dir():
            raise _not_on_hub(model) from error
        raise UserError(
            f"The base model {model.base} cannot be loaded ({reason(error)}); copy it again or "
            "choose another --model.base."
        ) from error
    _check_kind(model, pipe)
    pipe.set_progress_bar_config(disable=True)
    # Not in `from_pretrained`: its option for that has another name in each version.
    move(pipe, device, dtype)
    return pipe


def _check_kind(model: ModelConfig, pipe: Pipeline) -> None:
    """Raise `UserError` for a pipeline with the right parts that works in another way."""
    predicts = pipe.scheduler.config.get("prediction_type", "epsilon")
    conditions = "text_time" if is_xl(pipe) else None
    unet, vae = pipe.unet.config, pipe.vae.config
    why = None
    if predicts not in ("epsilon", "v_prediction"):
        why = f"its UNet predicts {predicts}, not epsilon or v_prediction"
    elif unet.addition_embed_type != conditions:
        why = "its UNet takes other conditions than Stable Diffusion's"
    elif unet.in_channels != vae.latent_channels:
        why = "its UNet takes more than latents"
    elif vae.latents_mean is not None:
        why = "its VAE scales each channel by itself"
    if why:
        raise UserError(
            f"The base model {model.base} cannot be used ({why}); choose another --model.base."
        )


def is_xl(pipe: Pipeline) -> bool:
    """Whether this is an SDXL: it has two text encoders, and its UNet also takes an embedding of
    the whole prompt and image sizes.
    """
    return hasattr(pipe, "text_encoder_2")


def text_parts(
    pipe: Pipeline,
) -> list[tuple[CLIPTokenizer, CLIPTextModel | CLIPTextModelWithProjection]]:
    """A pipeline's (tokenizer, text encoder) pairs: one, or two for an SDXL."""
    pairs = [(pipe.tokenizer, pipe.text_encoder)]
    return [*pairs, (pipe.tokenizer_2, pipe.text_encoder_2)] if is_xl(pipe) else pairs


def move(pipe: Pipeline, device: str, dtype: torch.dtype) -> None:
    """Move a pipeline's models to `device` and cast them to `dtype`, in place. SDXL's VAE overflows
    in fp16 and stays in fp32.
    """
    import torch
    from torch.nn import Module

    # diffusers' own `to` warns of layers to be kept in fp32 even where there are none.
    for part in (pipe.unet, *(encoder for _, encoder in text_parts(pipe))):
        Module.to(part, device, dtype)
    overflows = is_xl(pipe) and dtype == torch.float16 and pipe.vae.config.force_upcast
    Module.to(pipe.vae, device, torch.float32 if overflows else dtype)


def native_resolution(pipe: Pipeline) -> int:
    """Side in pixels of the square images that the model was made for."""
    return pipe.unet.config.sample_size * pipe.vae_scale_factor


def resolution_of(model: ModelConfig, pipe: Pipeline, trained_at: int | None = None) -> int:
    """Side in pixels of the images that the model works on: `trained_at`
    (`personalize.resolution`), else `model.resolution`, else the model's own size.

    Raises `UserError` for a side that the model cannot work at.
    """
    side = trained_at or model.resolution or native_resolution(pipe)
    # Latents of an odd side are fine: the UNet then says on its way up which size it had on its way
    # down.
    step = pipe.vae_scale_factor
    if side <= 0 or side % step:
        option = "personalize.resolution" if trained_at else "model.resolution"
        raise UserError(f"--{option} is {side}, but this base model needs a multiple of {step}.")
    return side


def to_tensor(
    image: Image, side: int, device: torch.device | str = "cpu"
) -> Float32[Tensor, "3 side side"]:
    """An RGB image as values in [-1, 1] on `device`, resized with PIL's bilinear filter as the
    reference does.
    """
    import numpy as np
    import torch
    from PIL.Image import Resampling

    from diffmix.generator.device.transfer import sent

    if image.size != (side, side):
        image = image.resize((side, side), Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    pixels = sent(pixels, device)  # bytes: a quarter of what floats would be
    return (2.0 * (pixels.float() / 255.0) - 1.0).permute(2, 0, 1).contiguous()


def device_and_dtype(precision: Precision) -> tuple[str, torch.dtype]:
    """This process's device ("cuda" or "cpu") and the dtype that `precision` means on it.

    Raises `UserError` for fp16 without a GPU: CPUs lack its kernels.
    """
    import torch

    cuda = torch.cuda.is_available()
    if precision == "auto":
        if not cuda:
            return "cpu", torch.float32
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported(
            including_emulation=False
        ) else torch.float16
    if precision == "fp16" and not cuda:
        raise UserError(
            "--model.precision is fp16, but there is no GPU here; use fp32 or auto on a CPU."
        )
    return "cuda" if cuda else "cpu", {
        "fp32": torch.float32,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }[precision]


def base_fingerprint(model: ModelConfig) -> str:
    """A short string that tells base models apart.

    For a hub model: its id and revision. For a folder: a hash of its content, of large files only
    their size and samples. It stays the same when the folder moves. Raises `UserError` as
    `base_path` does.
    """
    path = base_path(model)
    if not Path(path).is_dir():
        return f"{path}@{model.revision or 'main'}"
    parts = [Path(path) / part for part in _parts(model, _index(model))]
    files = [
        file
        for part in parts
        for file in part.iterdir()
        if file.is_file() and not file.name.startswith(".")
    ]
    return _fingerprint(Path(path), files)


def files_fingerprint(path: str | None) -> str | None:
    """The same for one file, or for the files in a folder. None for None."""
    if path is None:
        return None
    path = local_version(path)
    if Path(path).is_file():
        return _fingerprint(Path(path).parent, [Path(path)])
    return _fingerprint(
        Path(path),
        [file for file in Path(path).iterdir() if file.is_file() and not file.name.startswith(".")],
    )


def _fingerprint(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE_FILE:
                digest.update(stream.read())
                continue
            for i in range(_SAMPLES):
                stream.seek(i * (size - _SAMPLE) // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE))
    return f"sha256:{digest.hexdigest()[:32]}"
