"""SaSPA's gate (arXiv 2406.14551): a classifier of real images must recognize a mix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32
from PIL.Image import Image

from diffmix.config import GateConfig
from diffmix.datasets.class_names import match
from diffmix.errors import UserError
from diffmix.gates.gate import Gate
from diffmix.storage import Folder
from diffmix.strategies import MixSpec

_BATCH = 64  # images in one forward pass


@dataclass(frozen=True, kw_only=True)
class AccuracyGate(Gate):
    """Scores by 1 / rank, where rank is the place of the mix's target or source class among the
    classifier's classes, of the two the better one. Classes are matched by name.
    """

    name: ClassVar[str] = "accuracy"
    option: ClassVar[str | None] = "classifier"

    classifier: str
    """As `gate.classifier` has it: a run folder, a classifier's folder, or `nano`."""
    class_names: tuple[str, ...]
    """The mixes' classes, in the order of their labels."""

    @classmethod
    def from_options(
        cls, options: GateConfig, superclass: str, class_names: Sequence[str]
    ) -> AccuracyGate:
        assert options.classifier is not None
        return cls(classifier=options.classifier, class_names=tuple(class_names))

    @classmethod
    def threshold(cls, options: GateConfig) -> float | None:
        """The score of rank `gate.top_k`."""
        return float(np.float32(1 / options.top_k))

    def check(self) -> None:
        from diffmix.classifier.model import load_description

        self.places(load_description(self.folder).class_names)

    @property
    def folder(self) -> Folder:
        """The classifier's folder."""
        from diffmix.classifier.model import packaged_or_folder

        folder = packaged_or_folder(self.classifier)
        run = folder / "classifier"
        found = next((each for each in (folder, run) if each.exists("model.json")), None)
        if found is None:
            raise UserError(
                f"--gate.classifier {self.classifier} holds no classifier (no model.json); set it "
                "to a finished run folder or to a classifier's folder."
            )
        return found

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([self.name, self.class_names]).encode())
        folder = self.folder
        try:
            for name in ("model.json", "model.safetensors"):
                digest.update(hashlib.sha256(folder.read(name)).digest())
        except OSError as error:
            raise UserError(
                f"The classifier in {folder.uri} is incomplete ({name} cannot be read); copy it "
                "again or choose another --gate.classifier."
            ) from error
        return digest.hexdigest()[:16]

    def load(self, device: str) -> AccuracyScorer:
        return AccuracyScorer(self, device)

    def places(self, known: list[str]) -> list[int]:
        """The place of each of `class_names` among the classifier's classes, `known`. Raises
        `UserError` for a class that it does not know.
        """
        try:
            found = match(self.class_names, known, self.classifier)
        except UserError:
            lacking = next(name for name in self.class_names if not _matches(name, known))
            raise UserError(
                f"--gate.classifier {self.classifier} has no class, or several, called "
                f"{lacking!r}; choose a classifier of the same classes."
            ) from None
        return [found[name] for name in self.class_names]


class AccuracyScorer:
    """A gate's classifier on one device, in fp32."""

    def __init__(self, gate: AccuracyGate, device: str = "cpu"):
        import torch

        from diffmix.classifier.model import load_classifier
        from diffmix.classifier.transforms import eval_transform

        self.device = device
        self.model, description = load_classifier(gate.folder, device)
        self._transform = eval_transform(description)
        self._places = torch.tensor(gate.places(description.class_names), dtype=torch.int64)

    def score(self, images: Sequence[Image], specs: Sequence[MixSpec]) -> Float32[np.ndarray, " n"]:
        """1 / rank, in (0, 1]; 1 where the classifier takes the mix for its target or source."""
        import torch

        scores = []
        for first in range(0, len(images), _BATCH):
            batch = torch.stack([self._transform(one) for one in images[first : first + _BATCH]])
            with torch.inference_mode():
                logits = self.model(batch.to(self.device)).float().cpu()
            labels = [
                (spec.source_label, spec.target_label) for spec in specs[first : first + _BATCH]
            ]
            best = logits.gather(1, self._places[torch.tensor(labels)]).amax(1, keepdim=True)
            rank = 1 + (logits > best).sum(1)
            scores.append((1 / rank.float()).numpy())
        return np.concatenate(scores) if scores else np.zeros(0, dtype=np.float32)


def _matches(name: str, known: list[str]) -> bool:
    try:
        return bool(match([name], known, ""))
    except UserError:
        return False


GATES = (AccuracyGate,)
