"""A judge of the embedded data set: which digit does a picture show? Train it with `python -m diffmix.nano.oracle --out DIR`.

It has seen every digit and photograph part except the test set's, far more than the classifier of an experiment may see. So
it serves for one thing only: to say what share of the mixes shows its target class.
"""

import argparse
import json
import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffmix.nano import data

log = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("oracle")
"""Where the trained oracle is shipped."""

CONFIG = {
    "model_name": "test_resnet",
    "class_names": data.CLASS_NAMES,
    "resolution": 64,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}


class Oracle:
    """A trained classifier of 32x32 pictures, on the CPU."""

    def __init__(self, model: torch.nn.Module, resolution: int, mean: list[float], std: list[float]) -> None:
        self._model = model.eval()
        self._resolution = resolution
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    @classmethod
    def load(cls, folder: Path = FOLDER) -> "Oracle":
        """Read `model.json` and `model.safetensors`."""
        import timm
        from safetensors.torch import load_file

        config = json.loads((folder / "model.json").read_text())
        model = timm.create_model(config["model_name"], num_classes=len(config["class_names"]))
        model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        return cls(model, config["resolution"], config["mean"], config["std"])

    def prepare(self, pictures: np.ndarray) -> Tensor:
        """uint8 pictures (N, 32, 32, 3) -> the model's input (N, 3, resolution, resolution)."""
        batch = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
        batch = F.interpolate(batch, size=(self._resolution, self._resolution), mode="bilinear", align_corners=False)
        return (batch - self._mean) / self._std

    @torch.inference_mode()
    def predict(self, pictures: np.ndarray) -> np.ndarray:
        """The class that each of the uint8 pictures (N, 32, 32, 3) shows: int64 of shape (N,)."""
        parts = [self._model(self.prepare(part)) for part in np.array_split(pictures, math.ceil(len(pictures) / 256))]
        return torch.cat(parts).argmax(1).numpy()


def compositions(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures from all parts but the test set's: uint8 (N, 32, 32, 3) and their labels, int64 (N,)."""
    rng = np.random.default_rng([seed, 1])
    owners: list[tuple[data.Split, int]] = [(s, row) for s in data.SPLITS if s != "test" for row in data.digit_indices(s)]
    drawn = []
    for _ in range(count):
        _, row = owners[rng.integers(len(owners))]
        split, _ = owners[rng.integers(len(owners))]  # any digit on any of the photograph parts
        drawn.append(data.draw_recipe("", split, row, data.GROUPS[rng.integers(len(data.GROUPS))], rng))
    return np.stack([data.render(recipe) for recipe in drawn]), np.array([recipe.label for recipe in drawn])


def train(pictures: np.ndarray, labels: np.ndarray, steps: int, seed: int, batch_size: int = 64, lr: float = 2e-3) -> Oracle:
    """Train a classifier of `CONFIG["model_name"]` from scratch with AdamW and one cosine cycle."""
    import timm

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(CONFIG["model_name"], num_classes=len(data.CLASS_NAMES))
    oracle = Oracle(model, CONFIG["resolution"], CONFIG["mean"], CONFIG["std"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        rows = torch.randint(len(pictures), (batch_size,), generator=generator).numpy()
        target = torch.from_numpy(labels[rows])
        loss = F.cross_entropy(model(oracle.prepare(pictures[rows])), target, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info("step %d/%d loss=%.4f", step, steps, loss.item())
    model.eval()
    return oracle


def save(oracle: Oracle, folder: Path) -> None:
    """Write `model.safetensors` (16-bit) and `model.json`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = oracle._model.state_dict()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


def accuracy(oracle: Oracle, split: data.Split, seed: int = 0) -> float:
    """The share of a split's pictures that the oracle names rightly, in [0, 1]."""
    recipes = list(data.recipes(split, seed))
    predicted = oracle.predict(np.stack([data.render(recipe) for recipe in recipes]))
    return float((predicted == [recipe.label for recipe in recipes]).mean())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    oracle = train(*compositions(options.pictures, options.seed), options.steps, options.seed)
    save(oracle, options.out)
    log.info("accuracy on the test set: %.4f", accuracy(Oracle.load(options.out), "test"))


if __name__ == "__main__":
    main()
