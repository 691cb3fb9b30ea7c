"""The oracle of the embedded data set: a classifier that tells which digit an image shows.

`python -m diffmix.nano.oracle --out DIR` trains it on every digit and photograph strip except those
of the test set. That is far more than the classifier of an experiment may see. The oracle is
therefore used for one measure only: the share of mixes that show their target class.
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
from jaxtyping import Float32, Int64, UInt8
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
"""Folder of the oracle that is part of the package."""

DESCRIPTION = Classifier(
    model_name="test_resnet",
    class_names=data.CLASS_NAMES,
    resolution=64,
    mean=[0.5, 0.5, 0.5],
    std=[0.25, 0.25, 0.25],
)


def compositions(
    count: int, seed: int
) -> tuple[UInt8[np.ndarray, "images 32 32 3"], Int64[np.ndarray, " images"]]:
    """`count` random images and their labels, with any digit and strip but the test set's."""
    rng = np.random.default_rng([seed, 1])
    owners: list[tuple[data.Split, int]] = [
        (s, row) for s in data.SPLITS if s != "test" for row in data.digit_indices(s)
    ]
    drawn = []
    for _ in range(count):
        _, row = owners[rng.integers(len(owners))]
        split, _ = owners[rng.integers(len(owners))]  # a digit may lie on any split's strips
        group = data.GROUPS[rng.integers(len(data.GROUPS))]
        drawn.append(data.draw_recipe("", split, row, group, rng))
    images = np.stack([data.render(recipe) for recipe in drawn])
    return images, np.array([recipe.label for recipe in drawn])


def train_oracle(
    images: UInt8[np.ndarray, "images 32 32 3"],
    labels: Int64[np.ndarray, " images"],
    steps: int,
    seed: int,
    batch_size: int = 64,
    lr: float = 2e-3,
) -> torch.nn.Module:
    """Train the model of `DESCRIPTION` from scratch: AdamW, one cycle of the learning rate.

    Returns it in eval mode.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(DESCRIPTION.model_name, num_classes=len(data.CLASS_NAMES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rows = torch.randint(len(images), (batch_size,), generator=generator).numpy()
        logits, target = model(_inputs(images[rows])), torch.from_numpy(labels[rows])
        loss = F.cross_entropy(logits, target, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info("step %d/%d loss=%.4f", step, steps, loss.item())
    return model.eval()


def _inputs(
    images: UInt8[np.ndarray, "images 32 32 3"],
) -> Float32[Tensor, "images 3 side side"]:
    """The same as `eval_transform`, for a batch."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    size = (DESCRIPTION.resolution, DESCRIPTION.resolution)
    batch = F.interpolate(batch, size=size, mode="bilinear", align_corners=False)
    mean = torch.tensor(DESCRIPTION.mean).view(3, 1, 1)
    std = torch.tensor(DESCRIPTION.std).view(3, 1, 1)
    return (batch - mean) / std


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write a classifier's folder: `model.json`, and `model.safetensors` with floats as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    halved = {}
    for name, value in model.state_dict().items():
        halved[name] = value.half() if value.is_floating_point() else value
    save_file(halved, folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(dataclasses.asdict(DESCRIPTION), indent=2) + "\n")


@torch.inference_mode()
def judge(
    images: UInt8[np.ndarray, "images 32 32 3"], folder: Path = FOLDER
) -> Int64[np.ndarray, " images"]:
    """The label of the digit that each image shows."""
    model, description = load_classifier(Folder(str(folder)))
    transform = eval_transform(description)
    batch = torch.stack([transform(Image.fromarray(image)) for image in images])
    return torch.cat([model(part) for part in batch.split(256)]).argmax(1).numpy()


def accuracy(split: data.Split, folder: Path = FOLDER) -> float:
    """The share of a split's images that the oracle classifies correctly, in [0, 1]."""
    recipes = list(data.recipes(split))
    found = judge(np.stack([data.render(recipe) for recipe in recipes]), folder)
    return float((found == [recipe.label for recipe in recipes]).mean())


def main() -> None:
    """The command line: train the oracle and measure it on the test set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that the classifier is written to"
    )
    parser.add_argument(
        "--images", type=int, default=40_000, help="number of random training images"
    )
    parser.add_argument("--steps", type=int, default=3000, help="train steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # the last bits of the weights depend on the number of threads
    images, labels = compositions(options.images, options.seed)
    save(train_oracle(images, labels, options.steps, options.seed), options.out)
    log.info("accuracy on the test set: %.4f", accuracy("test", options.out))


if __name__ == "__main__":
    main()
