"""What changes while a concept is trained: parameters, optimizer and gradient scaler, saved and
restored as one.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from diffmix.errors import UserError
from diffmix.format_version import with_version, without_version

CHECKPOINT_FILE = "personalize.pt"


class TrainingState(NamedTuple):
    """Everything that a step changes. The tensors are the model's own, not copies."""

    parameters: dict[str, nn.Parameter]
    """The trained ones, by name."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Scales the loss in fp16, so that small gradients survive; it does nothing otherwise."""

    def update(self, max_grad_norm: float, clip_tokens: bool = True, keep: bool = False) -> None:
        """Take an optimizer step with the gradients, whose norm is clipped, and clear them. With
        `keep` they become zeros where they are.

        Without `clip_tokens` the new embedding rows (names that end in `.rows`) have no part in the
        norm and are not scaled.
        """
        self.scaler.unscale_(self.optimizer)
        clipped = [
            parameter
            for name, parameter in self.parameters.items()
            if clip_tokens or not name.endswith(".rows")
        ]
        nn.utils.clip_grad_norm_(clipped, max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not keep)

    def forget(self) -> None:
        """Drop the gradients of a step that was broken off."""
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path, identity: dict, step: int) -> None:
        """Write a checkpoint after `step` steps. `identity` is what the weights depend on."""
        weights = {name: value.detach().cpu() for name, value in self.parameters.items()}
        checkpoint = {
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "identity": identity,
            "step": step,
        }
        torch.save(with_version(checkpoint), folder / CHECKPOINT_FILE)

    def load(self, folder: Path, identity: dict) -> int:
        """Restore a checkpoint in place; gives the number of steps that were done.

        `UserError` where it cannot be read, is of a newer format version, or of a run with another
        `identity`.
        """
        try:
            checkpoint = torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
            stored = checkpoint["identity"]
        except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
            raise UserError(
                f"The personalization checkpoint in {folder} cannot be read; "
                "delete it to start again."
            ) from error
        checkpoint = without_version(checkpoint, f"{folder}/{CHECKPOINT_FILE}")
        if stored != identity:
            raise UserError(
                f"The personalization checkpoint in {folder} is of a run with other settings, "
                "data or base; choose another --out."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(checkpoint["weights"][name])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        return int(checkpoint["step"])
