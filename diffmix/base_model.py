"""The text-to-image model that everything starts from: found, checked, loaded and told apart from others."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from diffmix.config import ModelConfig, Precision
from diffmix.errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline
    from PIL.Image import Image

NANO_FOLDER = Path(__file__).parent / "nano" / "base"
"""The embedded base model."""

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_WHOLE_FILE = 64 * 2**20  # files up to this many bytes are hashed whole, larger ones in samples
_SAMPLES, _SAMPLE = 16, 2**16


def base_path(model: ModelConfig) -> str:
    """Where the base is: a local folder that holds a Stable Diffusion pipeline, or a hub id, which is not looked up.

    Raises `UserError` for a folder that is missing or is no such pipeline.
    """
    folder = NANO_FOLDER if model.base == "nano" else Path(model.base).expanduser()
    if not folder.is_dir():
        if _HUB_ID.fullmatch(model.base) and not folder.exists():
            return model.base
        raise UserError(f"There is no base model at {model.base}; set --model.base to a diffusers folder, a hub id or nano.")
    _check_parts(model, folder / "model_index.json")
    for name in _PARTS:
        if not (folder / name).is_dir():
            raise UserError(
                f"The base model {model.base} is incomplete ({name}/ is missing); copy it again or choose another --model.base."
            )
    return str(folder)


def check_base(model: ModelConfig) -> None:
    """Raise `UserError` for a base that is missing or of a kind that cannot be used, before anything large is loaded.

    Of a hub model one small file is read, from the hub or from this machine's cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    path = base_path(model)
    if Path(path).is_dir():
        return
    try:
        index = hf_hub_download(path, "model_index.json", revision=model.revision)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise _not_on_hub(model) from error
    _check_parts(model, Path(index))


def _check_parts(model: ModelConfig, index_file: Path) -> None:
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        missing = [name for name in _PARTS if name not in index]
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"{model.base} is not a diffusers pipeline (it has no readable model_index.json); "
            "set --model.base to a folder that save_pretrained wrote, a hub id or nano."
        ) from None
    if missing or "text_encoder_2" in index:
        what = f"it has no {missing[0]}" if missing else "it has two text encoders"
        raise UserError(f"{model.base} is not a Stable Diffusion 1.x or 2.x pipeline ({what}); choose another --model.base.")


def _not_on_hub(model: ModelConfig) -> UserError:
    revision = f" at revision {model.revision}" if model.revision else ""
    return UserError(
        f"The base model {model.base}{revision} is no local folder and cannot be had from the hub; "
        "check the id, the revision, the connection and (for a private model) the login."
    )


def load_base(model: ModelConfig, device: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    """The base pipeline on `device` in `dtype`, without safety checker and progress bars.

    Raises `UserError` where the folder or hub model cannot be read.
    """
    import diffusers
    import transformers
    from safetensors import SafetensorError

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    path = base_path(model)
    try:
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(
            path, revision=model.revision, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if not Path(path).is_dir():
            raise _not_on_hub(model) from error
        reason = str(error).strip().splitlines()[0].rstrip(".:") if str(error).strip() else type(error).__name__
        raise UserError(
            f"The base model {model.base} cannot be loaded ({reason}); copy it again or choose another --model.base."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    move(pipe, device, dtype)  # and not in from_pretrained: its option for that has another name in each version
    return pipe


def move(pipe: StableDiffusionPipeline, device: str, dtype: torch.dtype) -> None:
    """Move a pipeline's models to `device` and cast them to `dtype`, in place."""
    from torch.nn import Module

    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        Module.to(part, device, dtype)  # diffusers' own `to` warns of layers to be kept in fp32 even where there are none


def native_resolution(pipe: StableDiffusionPipeline) -> int:
    """Side in pixels of the square images that the model was made for."""
    return pipe.unet.config.sample_size * pipe.vae_scale_factor


def resolution_of(model: ModelConfig, pipe: StableDiffusionPipeline) -> int:
    """Side in pixels that images are resized to: `model.resolution`, or the model's own size.

    Raises `UserError` for a side that the model cannot work at.
    """
    side = model.resolution or native_resolution(pipe)
    # The UNet halves its latents once between any two of its levels, and they have to fit together again on the way up.
    step = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if side <= 0 or side % step:
        raise UserError(f"--model.resolution is {side}, but this base model needs a multiple of {step}.")
    return side


def to_tensor(image: Image, side: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """An RGB image as float32 [3, side, side] in [-1, 1] on `device`, resized with PIL's bilinear filter as the reference does."""
    import numpy as np
    import torch
    from PIL.Image import Resampling

    if image.size != (side, side):
        image = image.resize((side, side), Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    if torch.device(device).type == "cuda":
        # Bytes, from pinned memory: the copy waits for nothing that the GPU is still busy with.
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return (2.0 * (pixels.float() / 255.0) - 1.0).permute(2, 0, 1).contiguous()


def device_and_dtype(precision: Precision) -> tuple[str, torch.dtype]:
    """The device ("cuda" or "cpu") of this process and the number format that `precision` means on it.

    Raises `UserError` for fp16 without a GPU: CPUs lack its kernels.
    """
    import torch

    cuda = torch.cuda.is_available()
    if precision == "auto":
        if not cuda:
            return "cpu", torch.float32
        return "cuda", torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision == "fp16" and not cuda:
        raise UserError("--model.precision is fp16, but there is no GPU here; use fp32 or auto on a CPU.")
    return "cuda" if cuda else "cpu", {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def base_fingerprint(model: ModelConfig) -> str:
    """A short string that tells base models apart, cheap to make.

    A hub model is its id and revision. A folder is a hash over what it holds (large weight files by size and samples),
    so that it stays the same when the folder moves. Raises `UserError` as `base_path` does.
    """
    path = base_path(model)
    if not Path(path).is_dir():
        return f"{path}@{model.revision or 'main'}"
    files = [file for part in _PARTS for file in (Path(path) / part).iterdir() if file.is_file() and not file.name.startswith(".")]
    return _fingerprint(Path(path), files)


def files_fingerprint(path: str | None) -> str | None:
    """The same for one file, or for the files that lie in a folder; None for None."""
    if path is None:
        return None
    if Path(path).is_file():
        return _fingerprint(Path(path).parent, [Path(path)])
    return _fingerprint(Path(path), [file for file in Path(path).iterdir() if file.is_file() and not file.name.startswith(".")])


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
