"""Testing a finished run's classifier."""

from __future__ import annotations

from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.classifier_loop import evaluate as evaluate_folder


def evaluate(config: Config) -> dict:
    """Accuracy of the classifier in `out` on the run's test set. Needs no cluster."""
    import torch

    from diffmix.datasets.prepare import prepare

    out = Folder(config.out)
    if not (out / "classifier").exists("model.json"):
        raise UserError(
            f"{config.out or 'The run folder'} holds no classifier; set --out to a folder that `diffmix run` or `diffmix train` has finished."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return evaluate_folder((out / "classifier").uri, prepare(config.data, out.uri).test.path, device)
