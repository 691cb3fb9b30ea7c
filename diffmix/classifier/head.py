"""A classifier's head: LDAM's cosine head, and training the head while the backbone stays as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from diffmix.errors import UserError


class CosineHead(torch.nn.Linear):
    """Logits `scale * cos(w_c, x)` for features x (LDAM's normalized head: Cao et al., NeurIPS
    2019, section 3.2).

    Its state is a linear layer's whose bias is zero. With unit rows (`unit_rows`) a plain linear
    layer that loads it orders the classes in the same way, because |x| is common to all of them.
    """

    def __init__(self, in_features: int, out_features: int, scale: float):
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale
        del self.bias  # a parameter that is None
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, in_features] -> [B, out_features], in [-scale, scale]."""
        return self.scale * F.linear(
            F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1)
        )


def use_cosine_head(model: torch.nn.Module, scale: float) -> torch.nn.Module:
    """The timm model with a `CosineHead` in place of its linear head; `UserError` where it has
    none.
    """
    head = model.get_classifier()  # type: ignore[operator]
    name = next((name for name, module in model.named_modules() if module is head), None)
    if not isinstance(head, torch.nn.Linear) or name is None:
        raise UserError(
            "--train.loss ldam needs a model with one linear head; choose another --train.model_name or --train.loss."
        )
    model.set_submodule(name, CosineHead(head.in_features, head.out_features, scale))
    return model


def unit_rows(weights: dict[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """`weights` (the model's state) with the rows of its cosine heads at length 1, which changes
    none of their logits.
    """
    heads = {name for name, module in model.named_modules() if isinstance(module, CosineHead)}
    return {
        name: F.normalize(value.float(), dim=-1)
        if name.rpartition(".")[0] in heads and name.endswith("weight")
        else value
        for name, value in weights.items()
    }


def freeze_backbone(model: torch.nn.Module) -> None:
    """Leave only the head of a timm model to be trained."""
    model.requires_grad_(False)
    for head in _heads(model):
        head.requires_grad_(True)


def train_mode(model: torch.nn.Module, frozen: bool) -> None:
    """`model.train()`; a frozen backbone stays in eval mode, so that its batch norms keep their
    statistics.
    """
    model.train(not frozen)
    for head in _heads(model):
        head.train()


def _heads(model: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
    """A timm model's classifying layers: one, or a distilled model's two."""
    found = model.get_classifier()  # type: ignore[operator]
    return found if isinstance(found, tuple) else (found,)
