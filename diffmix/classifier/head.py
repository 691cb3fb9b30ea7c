"""A classifier's head: LDAM's cosine head, and training a head, or it and the last stages, on
frozen others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffmix.errors import UserError


class CosineHead(torch.nn.Linear):
    """Logits `scale * cos(w_c, x)` for features x: LDAM's normalized head.

    Cao et al., NeurIPS 2019, section 3.2. Its state is that of a linear layer with a bias of zero.
    A plain linear layer that loads this state ranks the classes in the same order if all rows have
    the same length (see `unit_rows`), because |x| is common to all classes.
    """

    def __init__(self, in_features: int, out_features: int, scale: float):
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale
        # torch has registered the bias as a parameter that is None; a buffer needs the name.
        del self.bias
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """Logits in [-scale, scale]."""
        return self.scale * F.linear(
            F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1)
        )


def use_cosine_head(model: torch.nn.Module, scale: float) -> torch.nn.Module:
    """Replace the linear head of a timm model by a `CosineHead`, in place, and return the model.

    Raises `UserError` for a model without exactly one linear head.
    """
    head = model.get_classifier()  # type: ignore[operator]
    name = next((name for name, module in model.named_modules() if module is head), None)
    if not isinstance(head, torch.nn.Linear) or name is None:
        raise UserError(
            "--train.loss ldam needs a model with one linear head; "
            "choose another --train.model_name or --train.loss, or --train.ldam_head plain."
        )
    model.set_submodule(name, CosineHead(head.in_features, head.out_features, scale))
    return model


def unit_rows(weights: dict[str, Tensor], model: torch.nn.Module) -> dict[str, Tensor]:
    """The state `weights` of `model` with the rows of all cosine heads scaled to length 1.

    The logits stay the same. The scaled rows are float32.
    """
    heads = {name for name, module in model.named_modules() if isinstance(module, CosineHead)}
    scaled = dict(weights)
    for name, value in weights.items():
        module, _, parameter = name.rpartition(".")
        if module in heads and parameter == "weight":
            scaled[name] = F.normalize(value.float(), dim=-1)
    return scaled


def freeze_backbone(model: torch.nn.Module) -> None:
    """Make the head the only part of a timm model that is trained."""
    model.requires_grad_(False)
    for head in _heads(model):
        head.requires_grad_(True)


def freeze_stages(model: torch.nn.Module, trained: int) -> None:
    """Freeze a timm model's stem and stages but for the last `trained` stages and the head. Stages
    are what timm groups them by: the four of a ResNet, the blocks of a ViT.

    Batch norms of frozen stages still follow the images, as in the paper's code. Raises `UserError`
    for more stages than there are.
    """
    from timm.models import group_parameters

    groups = group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
    _, *stages, _ = sorted(groups)
    if trained > len(stages):
        raise UserError(
            f"--train.trained_stages is {trained}, but the model has {len(stages)} stages; choose "
            "a smaller number, or None to train everything."
        )
    first = (len(groups) - 1) - trained
    frozen = {name for group in sorted(groups)[:first] for name in groups[group]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def train_mode(model: torch.nn.Module, frozen: bool) -> None:
    """Put the model into train mode. A frozen backbone stays in eval mode.

    In eval mode the backbone's batch norms keep their statistics.
    """
    model.train(not frozen)
    for head in _heads(model):
        head.train()


def _heads(model: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
    """The classifying layers of a timm model: one, or two for a distilled model."""
    found = model.get_classifier()  # type: ignore[operator]
    return found if isinstance(found, tuple) else (found,)
