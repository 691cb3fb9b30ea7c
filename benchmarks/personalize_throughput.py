"""Personalization's samples per second against the usual way, with the same weights, the same
number of samples and the same final loss.

    python -m benchmarks.personalize_throughput --json PATH
    python -m benchmarks.personalize_throughput --device cuda --architecture sd15 --json PATH

The images are not square: every step sees a random part of them. These ways train on the same
images from the same base, in turn, once for each repeat (and seed):

- usual: stock diffusers and peft, batches of 2 (`benchmarks/usual_personalization.py`)
- same batch: ours, batches of 2
- large batch: ours with `personalize.large_batch`, the opt-in preset
- N crops: the same with `personalize.cached_crops N`, which encodes N crops of each image once
  instead of a new one at every step

A way's time includes all it does: loading the base, encoding the images, and training. Losses are
those of the trained concepts, on one fixed set of images, crops, noise and timesteps. The spread of
the usual way's losses over the repeats shows how much is noise. Ratios of CPU seconds are there for
machines on which other work runs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import random_base, record

_RATIOS = {
    "large batch": "ratio_to_usual_way",
    "same batch": "ratio_at_the_same_batch",
}
"""How the figures name the ratios of these ways to the usual one."""


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--architecture", choices=("nano", "sd15"), default="nano", help="sd15: random weights"
    )
    parser.add_argument("--side", type=int, help="pixels; default: 32 for nano, 224 for sd15")
    parser.add_argument("--samples", type=int, default=1600, help="samples that each way trains on")
    parser.add_argument(
        "--large-batch",
        type=int,
        default=16,
        help="steps of 2 that the large-batch way folds into one",
    )
    parser.add_argument(
        "--crops", type=int, nargs="*", default=[1, 4, 16], help="cached crops, a way for each"
    )
    parser.add_argument(
        "--ways", nargs="*", help="only these, by the names above; ratios need the usual one"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="of all ways",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the UNet's blocks in all of ours"
    )
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here; leave --device out.")
    exact = record.without_tf32() if options.precision == "fp32" else contextlib.nullcontext()
    with exact, tempfile.TemporaryDirectory(prefix="diffmix-benchmark-") as folder:
        figures = measure(options, Path(folder))
    record.write(
        options.json,
        figures,
        options={key: value for key, value in vars(options).items() if key != "json"},
    )


def measure(options: argparse.Namespace, folder: Path) -> dict:
    from diffmix.config import ModelConfig, PersonalizeConfig

    nano = options.architecture == "nano"
    base = "nano" if nano else str(random_base.write_sd15(folder / "base" / "sd15"))
    model = ModelConfig(
        base=base, precision=options.precision, resolution=options.side or (32 if nano else 224)
    )
    real = _photos(folder, large=not nano)
    # The demo's learning rates, which are for batches of 16, at the usual batch of 2.
    config = PersonalizeConfig(
        steps=options.samples // 2,
        batch_size=2,
        lora_rank=8,
        lora_lr=5e-4 / 8**0.5,
        token_lr=4e-2 / 8**0.5,
        flip=False,
    )

    def ours(**changes) -> Callable:
        return lambda seed, out: _ours(
            model, config, real, out, seed, compile=options.compile, **changes
        )

    large = {"large_batch": options.large_batch}
    ways = {
        "usual": lambda seed, out: _usual(model, config, real, out, seed),
        "same batch": ours(),
        "large batch": ours(**large),
        **{f"{count} crops": ours(**large, cached_crops=count) for count in options.crops},
    }
    evaluation = Evaluation(model, config, real)
    before = evaluation.loss(
        _ours(model, config, real, folder / "before", 0, steps=1, lora_lr=0.0, token_lr=0.0)
    )
    ways = {name: ways[name] for name in options.ways or ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    cpu_rates: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(options.repeats):
        for name, train in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            concept = train(seed, folder / f"{name} {seed}")
            rates[name].append(2 * config.steps / (time.perf_counter() - start))
            cpu_rates[name].append(2 * config.steps / (time.process_time() - cpu_start))
            losses[name].append(evaluation.loss(concept))
            speed = f"{rates[name][-1]:.1f} samples/s"
            print(f"repeat {seed}, {name}: {speed}, loss {losses[name][-1]:.4f}", flush=True)
    rate = {name: statistics.median(values) for name, values in rates.items()}
    ratio, cpu_ratio = (
        {name: record.median_ratio(each[name], each["usual"]) for name in ways}
        if "usual" in ways
        else {}
        for each in (rates, cpu_rates)
    )
    rows: list[list[object]] = []
    for name, seen in losses.items():
        loss = [f"{value:.4f}" for value in (statistics.mean(seen), min(seen), max(seen))]
        rows.append([name, rate[name], ratio.get(name, ""), cpu_ratio.get(name, ""), *loss])
    record.show(
        f"{2 * config.steps} samples, medians of {options.repeats}; "
        f"loss before training {before:.4f}",
        ["way", "samples/s", "ratio", "in CPU seconds", "loss (mean)", "least", "most"],
        rows,
    )
    figures: dict[str, float] = {}
    for name in ratio:
        key = _RATIOS.get(name, f"ratio_{name.replace(' ', '_')}")
        if name != "usual":
            figures[key], figures[f"{key}_in_cpu_seconds"] = ratio[name], cpu_ratio[name]
    for name in ways:
        key = name.replace(" ", "_")
        figures[f"samples_per_second_{key}"] = rate[name]
        figures[f"loss_{key}"] = statistics.mean(losses[name])
        figures[f"loss_spread_{key}"] = max(losses[name]) - min(losses[name])
    return {**figures, "loss_before": before, "samples": 2 * config.steps}


def _photos(folder: Path, large: bool):
    """Nano's training images, 10 of each class, made wider: 43 x 32, as 4 to 3; with `large` JPEG
    files of 500 x 375, a usual size of photographs.
    """
    from PIL import Image

    from diffmix.config import DataConfig
    from diffmix.datasets.prepare import prepare
    from diffmix.datasets.real import Example, RealSet

    real = prepare(DataConfig(train="nano", shots=10), str(folder)).train
    size, kind = ((500, 375), "JPEG") if large else ((43, 32), "PNG")

    def wider(index: int) -> Example:
        file = io.BytesIO()
        image = Image.open(io.BytesIO(real.image_bytes(index))).convert("RGB")
        image.resize(size).save(file, kind)
        return Example(f"{index}.{kind.lower()}", file.getvalue(), int(real.labels[index]))

    examples = (wider(index) for index in range(len(real)))
    return RealSet.write(str(folder / "wider.arrow"), examples, real.class_names, real.superclass)


def _usual(model, config, real, out: Path, seed: int):
    import torch

    from benchmarks import usual_personalization
    from diffmix.generator.base_model import base_fingerprint, device_and_dtype, load_base
    from diffmix.generator.concept import Concept

    device, dtype = device_and_dtype(model.precision)
    pipe = load_base(model, "cpu", torch.float32)
    tokens, rows, lora = usual_personalization.train(
        pipe, real, config, model.resolution, seed, device, dtype
    )
    concept = Concept(
        class_names=real.class_names,
        superclass=real.superclass,
        tokens=tokens,
        vectors_per_token=1,
        lora_rank=config.lora_rank,
        base=model.base,
        revision=None,
        base_fingerprint=base_fingerprint(model),
        steps=config.steps,
        seed=seed,
        data_fingerprint=real.fingerprint,
    )
    return concept.save(out, rows, lora)


def _ours(model, config, real, out: Path, seed: int, **changes):
    from dataclasses import replace

    from diffmix.personalize.train import train_concept

    return train_concept(model, replace(config, **changes), real, out, seed)


class Evaluation:
    """The denoising loss of a concept on 512 draws of image, crop, noise and timestep, which are
    the same for every concept.
    """

    def __init__(self, model, config, real):
        import torch

        from diffmix.generator.base_model import device_and_dtype, load_base
        from diffmix.personalize.batches import Batches
        from diffmix.personalize.latents import FreshLatents

        self.model, self.config, self.real = model, config, real
        self.device, _ = device_and_dtype(model.precision)
        pipe = load_base(model, self.device, torch.float32)
        latents = FreshLatents(pipe.vae, real, model.resolution)
        draws = Batches(latents, real.labels, config, 1000, seed=2**31, global_batch=512)
        self.batches = [
            draws.draw(0, range(first, first + 16), len(real.class_names))
            for first in range(0, 512, 16)
        ]

    @record.without_tf32()
    def loss(self, concept) -> float:
        import torch

        from diffmix.generator.base_model import load_base
        from diffmix.generator.concept import prompt
        from diffmix.personalize.modules import DenoisingLoss, inputs

        pipe = load_base(self.model, "cpu", torch.float32)
        concept.apply(pipe)
        pipe.to(self.device)
        names, superclass = self.real.class_names, self.real.superclass
        prompts = [
            prompt(self.config.prompts[0], concept.tokens[name], name, superclass) for name in names
        ]
        loss = DenoisingLoss(
            pipe, prompts, self.model.resolution, trains_text=False, snr_gamma=None
        )
        with torch.no_grad():
            return statistics.mean(
                loss(*inputs(batch, self.device)).item() for batch in self.batches
            )


if __name__ == "__main__":
    main()
