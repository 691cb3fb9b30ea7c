"""A judge of the embedded data set: which digit does a picture show? Train it with `python -m
diffmix.nano.oracle --out DIR`.

It has seen every digit and photograph part except the test set's, far more than the classifier of
an experiment may see. So it serves for one thing only: to say what share of the mixes shows its
target class.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from diffmix.classifier.model import Classifier, load_classifier
from diffmix.classifier.transforms import eval_transform
from diffmix.nano import data
from diffmix.storage import Folder

log = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("oracle")
"""Where the trained oracle is shipped."""

DESCRIPTION = Classifier(
    model_name="test_resnet",
    class_names=data.CLASS_NAMES,
    resolution=64,
    mean=[0.5, 0.5, 0.5],
    std=[0.25, 0.25, 0.25],
)


def compositions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures from all parts but the test set's: uint8 (N, 32, 32, 3) and their labels,
    int64 (N,).
    """
    rng = np.random.default_rng([seed, 1])
    owners: list[tuple[data.Split, int]] = [
        (s, row) for s in data.SPLITS if s != "test" for row in data.digit_indices(s)
    ]
    drawn = []
    for _ in range(count):
        _, row = owners[rng.integers(len(owners))]
        split, _ = owners[rng.integers(len(owners))]  # any digit on any of the photograph parts
        drawn.append(
            data.draw_recipe("", split, row, data.GROUPS[rng.integers(len(data.GROUPS))], rng)
        )
    return np.stack([data.render(recipe) for recipe in drawn]), np.array(
        [recipe.label for recipe in drawn]
    )


def train(
    pictures: np.ndarray,
    labels: np.ndarray,
    steps: int,
    seed: int,
    batch_size: int = 64,
    lr: float = 2e-3,
) -> torch.nn.Module:
    """Train the model of `DESCRIPTION` from scratch with AdamW and one cycle of the learning rate."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(DESCRIPTION.model_name, num_classes=len(data.CLASS_NAMES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rows = torch.randint(len(pictures), (batch_size,), generator=generator).numpy()
        loss = F.cross_entropy(
            model(_inputs(pictures[rows])), torch.from_numpy(labels[rows]), label_smoothing=0.05
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info("step %d/%d loss=%.4f", step, steps, loss.item())
    return model.eval()


def _inputs(pictures: np.ndarray) -> Tensor:
    """What `eval_transform` makes of pictures, for a whole batch at once: N x 3 x resolution x
    resolution.
    """
    batch = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    batch = F.interpolate(
        batch, size=(DESCRIPTION.resolution,) * 2, mode="bilinear", align_corners=False
    )
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (DESCRIPTION.mean, DESCRIPTION.std)
    )
    return (batch - mean) / std


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write `model.json` and 16-bit `model.safetensors`, a classifier's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    save_file(
        {
            name: value.half() if value.is_floating_point() else value
            for name, value in state.items()
        },
        folder / "model.safetensors",
    )
    (folder / "model.json").write_text(json.dumps(dataclasses.asdict(DESCRIPTION), indent=2) + "\n")


@torch.inference_mode()
def judge(pictures: np.ndarray, folder: Path = FOLDER) -> np.ndarray:
    """The class that each of the uint8 pictures (N, 32, 32, 3) shows: int64 of shape (N,)."""
    model, description = load_classifier(Folder(str(folder)))
    transform = eval_transform(description)
    batch = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
    return torch.cat([model(part) for part in batch.split(256)]).argmax(1).numpy()


def accuracy(split: data.Split, folder: Path = FOLDER) -> float:
    """The share of a split's pictures that the oracle names rightly, in [0, 1]."""
    recipes = list(data.recipes(split))
    return float(
        (
            judge(np.stack([data.render(recipe) for recipe in recipes]), folder)
            == [recipe.label for recipe in recipes]
        ).mean()
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder that the classifier is written to"
    )
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # the weights depend on it in their last bits
    save(
        train(*compositions(options.pictures, options.seed), options.steps, options.seed),
        options.out,
    )
    log.info("accuracy on the test set: %.4f", accuracy("test", options.out))


if __name__ == "__main__":
    main()
