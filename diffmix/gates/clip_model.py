"""A CLIP from transformers or open_clip: images and prompts in, unit vectors of one space out."""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Float32
from PIL.Image import Image

from diffmix.errors import UserError, reason
from diffmix.generator.base_model import files_fingerprint
from diffmix.storage import local_version

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # for annotations that are read at run time; torch is imported late

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_OPEN_CLIP = "open_clip:"
_BATCH = 64  # images or prompts in one forward pass


class Clip:
    """A loaded CLIP on one device, in fp32. Made by `load_clip`; there is nothing to close."""

    def __init__(
        self,
        name: str,
        images: Callable[[list[Image]], Tensor],
        prompts: Callable[[list[str]], Tensor],
        logit_scale: float,
    ):
        self.name = name
        """As the option has it."""
        self.logit_scale = logit_scale
        """What cosines are multiplied by before a softmax; 100 in OpenAI's models."""
        self._images, self._prompts = images, prompts

    def embed_images(self, images: list[Image]) -> Float32[Tensor, "n dim"]:
        """Unit vectors, on the CPU, of RGB images of any size. At least one image."""
        return _embed(self._images, images)

    def embed_prompts(self, prompts: list[str]) -> Float32[Tensor, "n dim"]:
        """Unit vectors, on the CPU. A prompt that is too long for the model is cut. At least one
        prompt.
        """
        return _embed(self._prompts, prompts)


def _embed(encode: Callable[[list], Tensor], items: list) -> Float32[Tensor, "n dim"]:
    import torch

    with torch.inference_mode():
        parts = [encode(items[i : i + _BATCH]) for i in range(0, len(items), _BATCH)]
        return torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu()


def check_clip(name: str) -> None:
    """Raise `UserError` where there is no CLIP of this name, before anything large is loaded.

    For a hub model one small file is read, from the hub or from this machine's cache.
    """
    if name.startswith(_OPEN_CLIP):
        _check_open_clip(name)
        return
    folder = _folder(name)
    if folder is None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            file = Path(hf_hub_download(name, "config.json"))
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise _not_loaded(name, error) from error
    else:
        file = folder / "config.json"
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise UserError(
            f"{name} is not a CLIP that transformers can load (it has no readable config.json); "
            "choose another --gate.clip."
        ) from None
    if kind != "clip":
        raise UserError(
            f"{name} is not a CLIP but a model of type {kind}; choose another --gate.clip."
        )


def load_clip(name: str, device: str = "cpu") -> Clip:
    """The CLIP that `gate.clip` names. Raises `UserError` where it cannot be loaded."""
    check_clip(name)
    load = _load_open_clip if name.startswith(_OPEN_CLIP) else _load_transformers
    try:
        return load(name, device)
    except UserError:
        raise
    except Exception as error:  # each of the two libraries' many formats fails in its own way
        raise _not_loaded(name, error) from error


def clip_fingerprint(name: str) -> str:
    """A short string that tells CLIPs apart: a hash of a folder's files, else the name. Raises
    `UserError` where there is none.
    """
    folder = Path(local_version(name.removeprefix(f"{_OPEN_CLIP}local-dir:"))).expanduser()
    if not folder.is_dir():
        if not name.startswith(_OPEN_CLIP):
            _folder(name)
        return name
    return str(files_fingerprint(str(folder)))


def _folder(name: str) -> Path | None:
    """A local model folder. None: the name can only be a hub id."""
    folder = Path(local_version(name)).expanduser()
    if folder.is_dir():
        return folder
    if _HUB_ID.fullmatch(name) and not folder.exists():
        return None
    raise UserError(
        f"There is no CLIP at {name}; set --gate.clip to a folder, a hub id or "
        "open_clip:NAME:WEIGHTS."
    )


def _load_transformers(name: str, device: str) -> Clip:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    path = _folder(name) or name
    safe = True if path == name else None  # nothing pickled from the hub
    model = transformers.CLIPModel.from_pretrained(path, use_safetensors=safe)
    model = model.to(device).eval().requires_grad_(False)
    processor = transformers.CLIPProcessor.from_pretrained(path)
    longest = model.config.text_config.max_position_embeddings

    # The towers one by one: what `get_image_features` gives differs between transformers 4 and 5.
    def images(batch: list[Image]) -> Float[Tensor, "n dim"]:
        pixels = processor.image_processor(images=batch, return_tensors="pt")["pixel_values"]
        return model.visual_projection(model.vision_model(pixels.to(device)).pooler_output)

    def prompts(batch: list[str]) -> Float[Tensor, "n dim"]:
        tokens = processor.tokenizer(
            batch, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        return model.text_projection(model.text_model(**tokens).pooler_output)

    return Clip(name, images, prompts, float(model.logit_scale.exp()))


def _open_clip_names(name: str) -> tuple[str, str | None]:
    """(model, weights) as open_clip wants them."""
    rest = name.removeprefix(_OPEN_CLIP)
    if rest.startswith(("hf-hub:", "local-dir:")):
        return rest, None
    model, _, weights = rest.partition(":")
    return model, weights


def _check_open_clip(name: str) -> None:
    if importlib.util.find_spec("open_clip") is None:
        raise UserError(
            f"--gate.clip {name} needs open_clip, which is not installed; run "
            "pip install -e '.[clip]' -c constraints.txt."
        )
    import open_clip

    model, weights = _open_clip_names(name)
    if weights is None:
        folder = model.removeprefix("local-dir:")
        if folder != model and not Path(folder, "open_clip_config.json").is_file():
            raise UserError(
                f"--gate.clip {name} is not a folder with an open_clip_config.json; choose another."
            )
        return
    if model not in open_clip.list_models():
        close = difflib.get_close_matches(model, open_clip.list_models(), n=1)
        hint = "open_clip.list_models() names them all."
        if close:
            hint = f"did you mean {close[0]}?"
        raise UserError(f"--gate.clip {name}: open_clip has no model {model}; {hint}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights not in tags and not Path(weights).is_file():
        raise UserError(
            f"--gate.clip {name} must name the weights: open_clip:{model}: and a file or one of "
            f"{', '.join(tags) or 'none'}."
        )


def _load_open_clip(name: str, device: str) -> Clip:
    import open_clip
    import torch

    model_name, weights = _open_clip_names(name)
    model, transform = open_clip.create_model_from_pretrained(
        model_name, pretrained=weights, device=device
    )
    model.eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(model_name)

    def images(batch: list[Image]) -> Float[Tensor, "n dim"]:
        return model.encode_image(torch.stack([transform(image) for image in batch]).to(device))

    def prompts(batch: list[str]) -> Float[Tensor, "n dim"]:
        return model.encode_text(tokenizer(batch).to(device))

    return Clip(name, images, prompts, float(model.logit_scale.exp()))


def _not_loaded(name: str, error: Exception) -> UserError:
    return UserError(
        f"The CLIP {name} cannot be loaded ({reason(error)}); check --gate.clip, or the connection "
        "for a hub model."
    )
