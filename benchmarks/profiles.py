"""Options that make mixing cheaper: what each saves, what it does to the images, and what that does
to the classifier.

The demo's recipe on nano with the paper's 25 steps, and a concept for each seed. Four figures for
each profile: its speed against the exact profile's; the mean PSNR to the exact profile's images of
the same noise; the share of mixes in which an oracle sees the target class; and the top-1 accuracy
of the demo's classifier on the demo's number of mixes, over the seeds. The few-step samplers run
without a distilled LoRA unless one is given, and so show what an ordinary base does with them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import record
from benchmarks.mixer_throughput import mix_all, psnr
from benchmarks.strategies import RECIPE, config, interval, run_arm
from benchmarks.tiny_vae import distil
from diffmix import images
from diffmix.classifier.oracle import oracle_share
from diffmix.config import Config, ModelConfig, replace
from diffmix.datasets.prepare import prepare
from diffmix.generator.base_model import load_base
from diffmix.generator.mixer import Mixer
from diffmix.nano import data
from diffmix.personalize.train import train_concept
from diffmix.plan import MixSpec
from jobs.options import load

STEPS = 25
PROFILES: dict[str, dict[str, Any]] = {
    "exact": {},
    "no_guidance": {"mix.guidance_scale": 1.0},
    "guidance_first_half": {"mix.guidance_interval": (0.0, 0.5)},
    "guidance_middle_half": {"mix.guidance_interval": (0.25, 0.75)},
    "guidance_last_half": {"mix.guidance_interval": (0.5, 1.0)},
    "dpm_12_steps": {"mix.num_inference_steps": 12},
    "dpm_8_steps": {"mix.num_inference_steps": 8},
    "lcm_8_steps": {"mix.sampler": "lcm", "mix.num_inference_steps": 8},
    "tcd_8_steps": {"mix.sampler": "tcd", "mix.num_inference_steps": 8},
    "tiny_vae": {"model.tiny_vae": ""},
}
"""Each profile's changes to the recipe."""


def profiles(tiny_vae: str, sampler_lora: str | None) -> dict[str, dict[str, Any]]:
    """`PROFILES` with the files that they need."""
    made = {name: dict(changes) for name, changes in PROFILES.items()}
    made["tiny_vae"]["model.tiny_vae"] = tiny_vae
    for changes in made.values():
        if "mix.sampler" in changes:
            changes["mix.sampler_lora"] = sampler_lora
    return made


def concept_of(recipe: Config, seed: int, folder: str) -> str:
    """The concept folder of a seed's own ten shots a class, personalized where it is missing."""
    concept = Path(folder, f"seed-{seed}", "profiles-concept")
    if not (concept / "concept.json").exists():
        real = prepare(replace(recipe.data, seed=seed), f"{folder}/seed-{seed}/profiles-data").train
        train_concept(recipe.model, recipe.personalize, real, concept, seed)
    return str(concept)


def tasks(strength: float, count: int) -> tuple[list[MixSpec], list[bytes]]:
    """Mixes of validation images into random other classes, and their sources' files."""
    random = np.random.default_rng(0)
    examples = list(data.examples("val"))
    specs, sources = [], []
    for i in range(count):
        source = examples[i % len(examples)]
        target = (source.label + int(random.integers(1, 10))) % 10
        specs.append(
            MixSpec(
                mix_id=i,
                source_id=source.image_id,
                source_label=source.label,
                target_label=target,
                strength=float(np.float32(strength)),
                seed=1000 + i,
            )
        )
        sources.append(source.image)
    return specs, sources


def measure(
    recipe: Config, chosen: dict[str, dict[str, Any]], concept: str, count: int, repeats: int
) -> dict[str, float]:
    """Speed and images: four figures for each profile, from `count` mixes in each repeat."""
    specs, sources = tasks(recipe.mix.strength[0], count)
    mixers = {}
    for name, changes in chosen.items():
        own = replace(recipe, **changes)
        mixers[name] = Mixer(
            own.model,
            own.mix,
            data.CLASS_NAMES,
            data.SUPERCLASS,
            concept,
            own.personalize.prompts[0],
        )

    made: dict[str, list] = {}

    def run(name: str) -> None:
        mixer = mixers[name]
        made[name] = mix_all(mixer, specs, sources)

    def measured(name: str) -> Callable[[int], object]:
        return lambda repeat: run(name)

    seconds = record.interleaved({name: measured(name) for name in mixers}, repeats)
    figures: dict[str, float] = {}
    for name in mixers:
        table = pa.table(
            {
                "image": [images.encode(image, "png", 100) for image in made[name]],
                "target_label": pa.array([spec.target_label for spec in specs], pa.int32()),
            }
        )
        figures[f"{name}_images_per_second"] = count / statistics.median(seconds[name])
        figures[f"{name}_speedup"] = record.median_ratio(seconds["exact"], seconds[name])
        figures[f"{name}_psnr_db"] = statistics.mean(
            psnr(a, b) for a, b in zip(made["exact"], made[name], strict=True)
        )
        figures[f"{name}_oracle_share"] = oracle_share("nano", [table], data.CLASS_NAMES)
    return figures


def accuracy(
    recipe: Config, chosen: dict[str, dict[str, Any]], seeds: list[int], folder: str
) -> dict[str, float]:
    """The classifier's accuracy on each profile's mixes in percent, and its distance in points to
    that of the exact profile.
    """
    top1: dict[str, list[float]] = {name: [] for name in chosen}
    for seed in seeds:
        concept = concept_of(recipe, seed, folder)
        for name, changes in chosen.items():
            made = replace(config("diff_mix", seed, folder, concept, recipe), **changes)
            summary = run_arm("diff_mix", replace(made, out=f"{folder}/seed-{seed}/profile-{name}"))
            top1[name].append(100 * summary["accuracy"]["top1"])
            print(f"seed {seed}, {name}: {top1[name][-1]:.1f} %", flush=True)
    figures: dict[str, float] = {}
    for name, values in top1.items():
        figures[f"{name}_top1"], figures[f"{name}_top1_ci"] = interval(values)
        gain = [one - other for one, other in zip(values, top1["exact"], strict=True)]
        figures[f"{name}_top1_over_exact"], figures[f"{name}_top1_over_exact_ci"] = interval(gain)
    return figures


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument(
        "--mixes",
        type=int,
        default=128,
        help="in each repeat of the measurement of speed and images",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="*",
        default=[0, 1, 2],
        help="that the classifier's accuracy is measured over; none: it is not measured",
    )
    parser.add_argument("--sampler-lora", metavar="PATH", help="LoRA for the few-step samplers")
    parser.add_argument(
        "--tiny-vae-steps", type=int, default=600, help="of distilling a tiny VAE from nano's"
    )
    parser.add_argument(
        "--keep",
        metavar="FOLDER",
        help="keep the runs there; the same command then resumes",
    )
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    recipe = replace(load(str(RECIPE)), **{"mix.num_inference_steps": STEPS})
    with tempfile.TemporaryDirectory(prefix="diffmix-profiles-") as temporary:
        folder = os.path.abspath(options.keep or temporary)
        tiny = Path(folder, "tiny-vae")
        reconstruction = distil(
            load_base(ModelConfig(base="nano"), "cpu", torch.float32).vae,
            tiny,
            options.tiny_vae_steps,
        )
        chosen = profiles(str(tiny), options.sampler_lora)
        figures = measure(
            recipe, chosen, concept_of(recipe, 0, folder), options.mixes, options.repeats
        )
        if options.seeds:
            figures |= accuracy(recipe, chosen, options.seeds, folder)
    columns = ["images_per_second", "speedup", "psnr_db", "oracle_share"]
    columns += ["top1", "top1_over_exact", "top1_over_exact_ci"] if options.seeds else []
    rows: list[list[object]] = [
        [name, *(figures[f"{name}_{column}"] for column in columns)] for name in PROFILES
    ]
    title = (
        f"nano, strength {recipe.mix.strength[0]}, medians of {options.repeats}, "
        f"accuracy over {len(options.seeds)} seeds"
    )
    record.show(title, ["profile", *columns], rows)
    print(f"The tiny VAE reconstructs nano's images with {reconstruction:.1f} dB.")
    record.write(
        options.json, {**figures, "tiny_vae_reconstruction_db": reconstruction}, seeds=options.seeds
    )


if __name__ == "__main__":
    main()
