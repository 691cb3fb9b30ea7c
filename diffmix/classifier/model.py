"""A timm classifier, and the folder that keeps a trained one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors.torch import load, save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from diffmix.classifier.head import use_cosine_head
from diffmix.config import TrainConfig
from diffmix.errors import UserError, reason
from diffmix.format_version import with_version, without_version
from diffmix.storage import Folder, local_version


@dataclass(kw_only=True)
class Classifier:
    """What is needed to use a trained classifier's weights: the content of `model.json`."""

    model_name: str
    class_names: list[str]
    resolution: int
    """Side of the square input in pixels."""
    mean: list[float]
    """Mean of each channel, for pixels in [0, 1]; inputs are normalized with it."""
    std: list[float]
    """Standard deviation of each channel, likewise."""
    resize: int | None = None
    """Size in pixels before the center crop. None: `resolution`."""
    resize_mode: Literal["shorter", "squash"] = "shorter"
    """What is resized to `resize`: the shorter side, or both sides."""
    cosine_scale: float | None = None
    """Scale of the cosine head (`head.CosineHead`). None: timm's own head."""
    metrics: dict | None = None
    """How the weights were chosen: `epoch`, its accuracy `top1`, and `on_test_set` (see
    `train.protocol`).
    """


def describe(config: TrainConfig, class_names: list[str]) -> Classifier:
    """The description of the classifier that `config` asks for.

    Raises `UserError` for a model name that timm does not know.
    """
    if not timm.is_model(config.model_name):
        import difflib

        close = difflib.get_close_matches(config.model_name, timm.list_models(), n=1)
        hint = f"; did you mean {close[0]}?" if close else "; timm.list_models() lists all names."
        raise UserError(f"--train.model_name {config.model_name} is not a timm model{hint}")
    default = timm.get_pretrained_cfg(config.model_name) if config.pretrained else None
    return Classifier(
        model_name=config.model_name,
        class_names=class_names,
        resolution=config.resolution,
        mean=list(default.mean if default else IMAGENET_DEFAULT_MEAN),
        std=list(default.std if default else IMAGENET_DEFAULT_STD),
        resize=config.resize or round(config.resolution / 0.875),
        resize_mode=config.resize_mode,
        cosine_scale=config.ldam_scale if _has_cosine_head(config) else None,
    )


def _input_size(model_name: str, resolution: int) -> dict[str, int]:
    """Extra arguments of `timm.create_model`: models of a fixed input size (ViTs) need another one.

    Empty for all other models, and for the usual size.
    """
    default = timm.get_pretrained_cfg(model_name)
    if default is None or not default.fixed_input_size or default.input_size[-1] == resolution:
        return {}
    return {"img_size": resolution}


def check_input_size(config: TrainConfig) -> None:
    """Raise `UserError` if the model cannot take images of `train.resolution`.

    For another size than the model's usual one, this costs a small forward pass.
    """
    size = _input_size(config.model_name, config.resolution)
    if not size:
        return
    try:
        model = timm.create_model(config.model_name, **size).eval()
        with torch.inference_mode():
            model(torch.zeros(1, 3, config.resolution, config.resolution))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        usual = timm.get_pretrained_cfg(config.model_name).input_size[-1]
        raise UserError(
            f"--train.model_name {config.model_name} cannot take images of --train.resolution "
            f"{config.resolution} ({reason(error)}); its usual size is {usual}."
        ) from error


def bare_model(description: Classifier) -> torch.nn.Module:
    """The model with random weights, float32, on the CPU.

    Raises `UserError` if the model cannot have a cosine head but `description` asks for one.
    """
    size = _input_size(description.model_name, description.resolution)
    num_classes = len(description.class_names)
    model = timm.create_model(description.model_name, num_classes=num_classes, **size)
    if description.cosine_scale is None:
        return model
    return use_cosine_head(model, description.cosine_scale)


def build_model(config: TrainConfig, num_classes: int) -> torch.nn.Module:
    """The model with its starting weights, float32, on the CPU.

    Raises `UserError` if the weights cannot be loaded.
    """
    pretrained = config.pretrained and not config.checkpoint_path
    size = _input_size(config.model_name, config.resolution)
    try:
        # timm drops a head of another size for hub weights only; for a file, `_load_start` does.
        model = timm.create_model(
            config.model_name, pretrained=pretrained, num_classes=num_classes, **size
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"The pre-trained weights of {config.model_name} cannot be loaded ({reason(error)}); "
            "give a local file with --train.checkpoint_path or start from scratch with "
            "--train.pretrained False."
        ) from error
    if config.checkpoint_path:
        _load_start(model, config.checkpoint_path)
    return use_cosine_head(model, config.ldam_scale) if _has_cosine_head(config) else model


def _has_cosine_head(config: TrainConfig) -> bool:
    return config.loss == "ldam" and config.ldam_head == "cosine"


def input_layout(device: str) -> torch.memory_format:
    """The memory format of images on `device`: channels last on a GPU.

    Half-precision convolutions of GPUs are made for channels last.
    """
    return torch.channels_last if device == "cuda" else torch.contiguous_format


def _load_start(model: torch.nn.Module, path: str) -> None:
    """Load the tensors of a weights file that fit the model by name and shape, at least half."""
    from timm.models import load_state_dict

    try:
        weights = load_state_dict(local_version(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--train.checkpoint_path {path} cannot be read as weights ({reason(error)})."
        ) from error
    own = model.state_dict()
    fitting = {}
    for name, value in weights.items():
        if name in own and own[name].shape == value.shape:
            fitting[name] = value
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"--train.checkpoint_path {path} fits only {len(fitting)} of the model's {len(own)} "
            "tensors; is it another architecture's?"
        )
    model.load_state_dict(fitting, strict=False)


def save_classifier(
    folder: Folder, weights: dict[str, torch.Tensor], description: Classifier
) -> None:
    """Write `model.safetensors` (floats as float32) and `model.json`."""
    on_cpu = {name: value.detach().cpu() for name, value in weights.items()}
    tensors = {name: value.contiguous() for name, value in _in_fp32(on_cpu).items()}
    # Weights first: if the run dies between the two, `model.json` describes older and not better
    # weights than there are.
    folder.create().write("model.safetensors", save(tensors))
    text = json.dumps(with_version(asdict(description)), indent=2, ensure_ascii=False)
    folder.write("model.json", text.encode())


def _in_fp32(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with all floats as float32; integers (counters of batch norms) stay."""
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in weights.items()
    }


def load_description(folder: Folder) -> Classifier:
    """Read `model.json`. Raises `UserError` if the folder holds no classifier."""
    try:
        stored = json.loads(folder.read("model.json"))
        return Classifier(**without_version(stored, f"{folder.uri}/model.json"))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder.uri} holds no classifier: model.json is missing or damaged ({reason(error)})."
        ) from error


def load_classifier(folder: Folder, device: str = "cpu") -> tuple[torch.nn.Module, Classifier]:
    """A trained classifier, float32 and in eval mode, and its description.

    Raises `UserError` if the folder holds no classifier or its weights do not fit `model.json`.
    """
    description = load_description(folder)
    model = bare_model(description)
    try:
        model.load_state_dict(_in_fp32(load(folder.read("model.safetensors"))))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{folder.uri}/model.safetensors does not load into {description.model_name} "
            f"({reason(error)})."
        ) from error
    return model.eval().to(device), description


def packaged_or_folder(name: str) -> Folder:
    """The folder of a classifier; `nano` is that of the packaged oracle."""
    packaged = Path(__file__).parent.parent / "nano" / "oracle"
    return Folder(str(packaged) if name == "nano" else name)
