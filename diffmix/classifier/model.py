"""A timm classifier, and the folder that a trained one is kept in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load, save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from diffmix.classifier.head import use_cosine_head
from diffmix.config import TrainConfig
from diffmix.errors import UserError, reason
from diffmix.format_version import with_version, without_version
from diffmix.storage import Folder


@dataclass
class Classifier:
    """What is needed beside the weights to use a trained classifier; kept as `model.json`."""

    model_name: str
    class_names: list[str]
    resolution: int
    """Side of the square input in pixels."""
    mean: list[float]
    """Per-channel mean that inputs are normalized with, of values in [0, 1]."""
    std: list[float]
    resize: int | None = None
    """Size of the shorter side before the center crop. None: `resolution`."""
    cosine_scale: float | None = None
    """Scale of its cosine head (`head.CosineHead`). None: it has timm's own head."""
    metrics: dict | None = None
    """How it was chosen: the epoch, its accuracy there, and whether that was on the test set
    (`train.protocol`).
    """


def describe(config: TrainConfig, class_names: list[str]) -> Classifier:
    """The description of the classifier that `config` asks for; `UserError` for a name that timm
    does not know.
    """
    if not timm.is_model(config.model_name):
        import difflib

        close = difflib.get_close_matches(config.model_name, timm.list_models(), n=1)
        hint = f"; did you mean {close[0]}?" if close else "; timm.list_models() names them all."
        raise UserError(f"--train.model_name {config.model_name} is not a timm model{hint}")
    default = timm.get_pretrained_cfg(config.model_name) if config.pretrained else None
    return Classifier(
        model_name=config.model_name,
        class_names=class_names,
        resolution=config.resolution,
        mean=list(default.mean if default else IMAGENET_DEFAULT_MEAN),
        std=list(default.std if default else IMAGENET_DEFAULT_STD),
        resize=config.resize or round(config.resolution / 0.875),
        cosine_scale=config.ldam_scale if config.loss == "ldam" else None,
    )


def _input_size(model_name: str, resolution: int) -> dict[str, int]:
    """What `timm.create_model` has to be told about the input: a model of a fixed size (a ViT) is
    made for another one where that differs.
    """
    default = timm.get_pretrained_cfg(model_name)
    fixed = (
        default is not None and default.fixed_input_size and default.input_size[-1] != resolution
    )
    return {"img_size": resolution} if fixed else {}


def check_input_size(config: TrainConfig) -> None:
    """Raise `UserError` where the model cannot take images of `train.resolution`. Costs a small
    forward pass where it is not the usual size.
    """
    size = _input_size(config.model_name, config.resolution)
    if not size:
        return
    try:
        with torch.inference_mode():
            timm.create_model(config.model_name, **size).eval()(
                torch.zeros(1, 3, config.resolution, config.resolution)
            )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        usual = timm.get_pretrained_cfg(config.model_name).input_size[-1]
        raise UserError(
            f"--train.model_name {config.model_name} cannot take images of --train.resolution {config.resolution} ({reason(error)}); "
            f"{usual} is its usual size."
        ) from error


def bare_model(description: Classifier) -> torch.nn.Module:
    """The model with random weights, in fp32 on the CPU; `UserError` where it cannot have the head
    that it is to have.
    """
    size = _input_size(description.model_name, description.resolution)
    model = timm.create_model(
        description.model_name, num_classes=len(description.class_names), **size
    )
    return (
        model
        if description.cosine_scale is None
        else use_cosine_head(model, description.cosine_scale)
    )


def build_model(config: TrainConfig, num_classes: int) -> torch.nn.Module:
    """The model with its starting weights, in fp32 on the CPU; `UserError` where the weights cannot
    be had.
    """
    pretrained = config.pretrained and not config.checkpoint_path
    size = _input_size(config.model_name, config.resolution)
    try:
        # timm leaves out a head of another size only for hub weights; for a file that is
        # `strict=False` below.
        model = timm.create_model(
            config.model_name, pretrained=pretrained, num_classes=num_classes, **size
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"The pre-trained weights of {config.model_name} cannot be had ({reason(error)}); "
            "give a local file with --train.checkpoint_path or start from scratch with --train.pretrained False."
        ) from error
    if config.checkpoint_path:
        _load_start(model, config.checkpoint_path)
    return use_cosine_head(model, config.ldam_scale) if config.loss == "ldam" else model


def input_layout(device: str) -> torch.memory_format:
    """How images lie in memory: channels last on a GPU, whose convolutions of half precision are
    made for it.
    """
    return torch.channels_last if device == "cuda" else torch.contiguous_format


def _load_start(model: torch.nn.Module, path: str) -> None:
    from timm.models import load_state_dict

    try:
        weights = load_state_dict(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--train.checkpoint_path {path} cannot be read as weights ({reason(error)})."
        ) from error
    own = model.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape
    }
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"--train.checkpoint_path {path} fits only {len(fitting)} of the model's {len(own)} tensors; is it another architecture's?"
        )
    model.load_state_dict(fitting, strict=False)


def save_classifier(
    folder: Folder, weights: dict[str, torch.Tensor], description: Classifier
) -> None:
    """Write `model.safetensors` (float32, on the CPU) and `model.json`."""
    tensors = {
        name: value.detach()
        .to("cpu", torch.float32 if value.is_floating_point() else value.dtype)
        .contiguous()
        for name, value in weights.items()
    }
    # Weights first: if the run dies in between, the description promises less than the weights
    # hold, not more.
    folder.create().write("model.safetensors", save(tensors))
    folder.write(
        "model.json",
        json.dumps(with_version(asdict(description)), indent=2, ensure_ascii=False).encode(),
    )


def load_description(folder: Folder) -> Classifier:
    """Read `model.json`; `UserError` where the folder is not a classifier's."""
    try:
        stored = json.loads(folder.read("model.json"))
        return Classifier(**without_version(stored, f"{folder.uri}/model.json"))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder.uri} is not a classifier's folder: model.json is missing or damaged ({error})."
        ) from error


def load_classifier(folder: Folder, device: str = "cpu") -> tuple[torch.nn.Module, Classifier]:
    """A trained classifier in eval mode and its description."""
    description = load_description(folder)
    model = bare_model(description)
    try:
        weights = load(folder.read("model.safetensors"))
        model.load_state_dict(
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in weights.items()
            }
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{folder.uri}/model.safetensors does not load into {description.model_name} ({reason(error)})."
        ) from error
    return model.eval().to(device), description


def packaged_or_folder(name: str) -> Folder:
    """`nano` is the packaged oracle; anything else is a folder."""
    return Folder(str(Path(__file__).parent.parent / "nano" / "oracle") if name == "nano" else name)
