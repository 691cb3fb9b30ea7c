"""What the paper's full CUB experiment costs on this machine's GPU, from short runs of each phase
at full size. Needs a GPU.

The experiment is 280,000 samples of personalizing at 224 px (35,000 steps of 8), 30,000 mixes at
512 px and strength 0.7, and 120 epochs of ResNet-50 at 448 px over 5,994 images. Stable Diffusion
1.5's architecture and ResNet-50 have random weights, which cost the same. Rates are of steady work:
they leave out loading, compiling, and encoding the 5,994 images once.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import record
from benchmarks.mixer_throughput import CLASSES, SUPERCLASS, mix_all, paper_settings, tasks
from benchmarks.random_base import write_sd15
from benchmarks.random_images import random_file
from diffmix.classifier.loss import cross_entropy, soft_mean
from diffmix.classifier.model import input_layout
from diffmix.config import ModelConfig, PersonalizeConfig, replace
from diffmix.datasets.real import Example, RealSet
from diffmix.generator.device.batch_size import saturating_batch
from diffmix.generator.mixer import Mixer
from diffmix.personalize.train import Attempt, train_concept

PERSONALIZE_SAMPLES = 280_000
MIXES = 30_000
TRAIN_SAMPLES = 120 * 5_994
CUB_CLASSES = 200


def personalize_rate(model: ModelConfig, batch_size: int, steps: int) -> float:
    """Samples a second of personalizing, tokens and LoRA, after the first tenth of `steps`."""
    random = np.random.default_rng(0)
    examples = [
        Example(str(i), random_file(random, 64, form="PNG"), i % len(CLASSES))
        for i in range(2 * len(CLASSES))
    ]
    times: list[float] = []
    with tempfile.TemporaryDirectory(prefix="diffmix-cub-") as folder:
        real = RealSet.write(f"{folder}/train.arrow", examples, CLASSES, SUPERCLASS)
        settings = PersonalizeConfig(batch_size=batch_size, steps=steps, checkpoint_every=steps)

        def step_done(done: int, loss: torch.Tensor) -> None:
            loss.item()  # waits for the GPU
            times.append(time.perf_counter())

        attempt = Attempt(on_step=step_done)
        train_concept(model, settings, real, f"{folder}/concept", 0, attempt)
    first = steps // 10
    return batch_size * (steps - 1 - first) / (times[-1] - times[first])


def mix_rate(model: ModelConfig, batch: int | None, chunks: int) -> float:
    """Images a second of the mixer with the paper's settings, after one chunk."""
    mix = paper_settings()
    mix = replace(mix, batch=batch or saturating_batch(model, mix))
    mixer = Mixer(model, mix, CLASSES, SUPERCLASS)
    mix_all(mixer, *tasks(mixer.batch, mixer.resolution, -1))
    specs, sources = tasks(chunks * mixer.batch, mixer.resolution, 0)
    start = time.perf_counter()
    mix_all(mixer, specs, sources)
    return len(specs) / (time.perf_counter() - start)


def train_rate(resolution: int, batch_size: int, steps: int, device: str) -> float:
    """Images a second of ResNet-50 after the first tenth of `steps`: forward, backward and SGD step
    in bf16 autocast, as the engine trains it. Reading images is not in it.
    """
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet50", num_classes=CUB_CLASSES).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(batch_size, 3, resolution, resolution, device=device).to(
        memory_format=input_layout(device)
    )
    labels = torch.full((batch_size, CUB_CLASSES), 1 / CUB_CLASSES, device=device)
    first, start = steps // 10, 0.0
    for step in range(steps):
        with torch.autocast(device, torch.bfloat16):
            logits = model(images)
        loss = soft_mean(cross_entropy(logits.float()), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step == first:
            loss.item()
            start = time.perf_counter()
    loss.item()
    return batch_size * (steps - 1 - first) / (time.perf_counter() - start)


def gpu_hours(personalize: float, mix: float, train: float) -> dict[str, float]:
    """The figures, from the rates of the three phases in samples or images a second."""
    hours = {
        "personalize_gpu_hours": PERSONALIZE_SAMPLES / personalize / 3600,
        "synthesize_gpu_hours": MIXES / mix / 3600,
        "train_gpu_hours": TRAIN_SAMPLES / train / 3600,
    }
    rates = {
        "personalize_samples_per_second": personalize,
        "mixes_per_second": mix,
        "train_images_per_second": train,
    }
    return {**hours, "total_gpu_hours": sum(hours.values()), **rates}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument(
        "--personalize-batch",
        type=int,
        default=8,
        help="samples in a step; the paper has 8 on four GPUs",
    )
    parser.add_argument("--compile", action="store_true", help="mix with --model.compile")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each phase, of which the median counts"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "There is no GPU here, so there are no figures: on a CPU this would take days and say "
            "nothing about GPUs."
        )
        record.write(options.json, {})
        return
    with tempfile.TemporaryDirectory(prefix="diffmix-sd15-") as folder:
        base = str(write_sd15(Path(folder)))
        short_runs = (
            lambda: personalize_rate(
                ModelConfig(base=base, resolution=224), options.personalize_batch, 200
            ),
            lambda: mix_rate(ModelConfig(base=base, compile=options.compile), None, 4),
            lambda: train_rate(448, 64, 100, "cuda"),
        )
        rates = [statistics.median(run() for _ in range(options.repeats)) for run in short_runs]
    figures = gpu_hours(*rates)
    record.show(
        f"Full CUB on one GPU, medians of {options.repeats}",
        ["figure", "value"],
        [[*item] for item in figures.items()],
    )
    record.write(options.json, figures)


if __name__ == "__main__":
    main()
