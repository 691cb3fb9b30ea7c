"""Fewer FLOPs by choice: what each option saves, and what it does to the images.

Nano, from real pictures of its validation part to other classes by name. Speed against the exact profile; distance to the exact
profile's images for the same noise, as mean PSNR; and the share of mixes in which an oracle sees the target class. The
few-step samplers run without a distilled LoRA unless one is given: then they show what a base that was not made for them
does.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import record
from benchmarks.mixer_throughput import psnr
from benchmarks.tiny_vae import distil
from diffmix import images
from diffmix.base_model import load_base
from diffmix.classifier.oracle import oracle_share
from diffmix.config import MixConfig, ModelConfig
from diffmix.mixer import Mixer
from diffmix.nano import data
from diffmix.nano.captions import NAMES
from diffmix.plan import MixSpec

EXACT = MixConfig(strategy="real-mix", strength=(0.9,), guidance_scale=3.0, num_inference_steps=25, batch=32)
PROFILES: dict[str, dict] = {
    "exact": {},
    "no_guidance": {"guidance_scale": 1.0},
    "guidance_first_half": {"guidance_interval": (0.0, 0.5)},
    "guidance_middle_half": {"guidance_interval": (0.25, 0.75)},
    "guidance_last_half": {"guidance_interval": (0.5, 1.0)},
    "dpm_12_steps": {"num_inference_steps": 12},
    "dpm_8_steps": {"num_inference_steps": 8},
    "lcm_8_steps": {"sampler": "lcm", "num_inference_steps": 8},
    "tcd_8_steps": {"sampler": "tcd", "num_inference_steps": 8},
}


def tasks(count: int) -> tuple[list[MixSpec], list[bytes]]:
    """Mixes of validation pictures into random other classes, and their files."""
    random = np.random.default_rng(0)
    pictures = list(data.examples("val"))
    specs, sources = [], []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        target = (picture.label + int(random.integers(1, 10))) % 10
        specs.append(MixSpec(i, picture.image_id, picture.label, target, float(np.float32(EXACT.strength[0])), 1000 + i))
        sources.append(picture.image)
    return specs, sources


def measure(model: ModelConfig, tiny_vae: str, sampler_lora: str | None, count: int, repeats: int) -> dict[str, float]:
    """Four figures for each profile; `count` mixes in each repeat."""
    specs, sources = tasks(count)
    mixers = {}
    for name, changes in PROFILES.items():
        lora: dict[str, Any] = {"sampler_lora": sampler_lora} if changes.get("sampler") else {}
        mixers[name] = Mixer(model, dataclasses.replace(EXACT, **changes, **lora), NAMES, data.SUPERCLASS)
    mixers["tiny_vae"] = Mixer(dataclasses.replace(model, tiny_vae=tiny_vae), EXACT, NAMES, data.SUPERCLASS)

    made: dict[str, list] = {}

    def run(name: str) -> None:
        mixer = mixers[name]
        made[name] = [
            image
            for start in range(0, count, mixer.batch)
            for image in mixer.mix(specs[start : start + mixer.batch], list(sources[start : start + mixer.batch]))
        ]

    seconds = record.interleaved({name: (lambda repeat, name=name: run(name)) for name in mixers}, repeats)  # type: ignore[misc]
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
        figures[f"{name}_psnr_db"] = statistics.mean(psnr(a, b) for a, b in zip(made["exact"], made[name], strict=True))
        figures[f"{name}_oracle_share"] = oracle_share("nano", [table], data.CLASS_NAMES)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="PATH", help="write the figures there")
    parser.add_argument("--mixes", type=int, default=128, help="in each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sampler-lora", metavar="PATH", help="LoRA for the few-step samplers")
    parser.add_argument("--tiny-vae-steps", type=int, default=600, help="of distilling a tiny VAE from nano's")
    options = parser.parse_args()
    model = ModelConfig(base="nano")
    with tempfile.TemporaryDirectory(prefix="diffmix-tiny-vae-") as folder:
        reconstruction = distil(load_base(model, "cpu", torch.float32).vae, Path(folder), options.tiny_vae_steps)
        figures = measure(model, folder, options.sampler_lora, options.mixes, options.repeats)
    names = [*PROFILES, "tiny_vae"]
    columns = ["images_per_second", "speedup", "psnr_db", "oracle_share"]
    rows: list[list[object]] = [[name, *(figures[f"{name}_{column}"] for column in columns)] for name in names]
    record.show(f"nano, strength 0.9, medians of {options.repeats}", ["profile", *columns], rows)
    print(f"The tiny VAE reconstructs nano's pictures with {reconstruction:.1f} dB.")
    record.write(options.json, {**figures, "tiny_vae_reconstruction_db": reconstruction})


if __name__ == "__main__":
    main()
