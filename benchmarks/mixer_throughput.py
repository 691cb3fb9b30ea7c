"""The mixer against the usual way: stock diffusers with one image in a call, as the reference
implementation samples.

Both turn the same source files into the same images: 25 steps of DPM-Solver++, guidance 7.5,
strength 0.7, and five mixes of each source image, as in a plan. The usual way encodes the prompt
and the source for every image. Without a GPU the base is nano. With one it is Stable Diffusion
1.5's architecture at 512 px with random weights; the GPU's ceiling is then the speed of a large
matrix product in the same precision.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import record
from benchmarks.random_base import write_sd15
from benchmarks.random_images import random_file
from diffmix.config import MixConfig, ModelConfig, replace
from diffmix.generator.base_model import base_path, device_and_dtype
from diffmix.generator.device.batch_size import saturating_batch
from diffmix.generator.mixer import Mixer
from diffmix.images import decode
from diffmix.plan import MixSpec

CLASSES = [f"class {i}" for i in range(10)]
SUPERCLASS = "thing"
MIXES_PER_SOURCE = 5
SD15_TFLOP = 17 * 2 * 0.803 + 1.12 / MIXES_PER_SOURCE + 2.51
"""TFLOP of one mix of Stable Diffusion 1.5 at 512 px with these settings: 17 steps with guidance,
one source encoded for each `MIXES_PER_SOURCE` mixes, one image decoded. 30.0.
"""


def paper_settings(batch: int | str = "auto") -> MixConfig:
    """The reference's: 25 steps, guidance 7.5, strength 0.7."""
    return MixConfig(
        strategy="real-mix",
        strength=(0.7,),
        guidance_scale=7.5,
        num_inference_steps=25,
        batch=batch,  # type: ignore[arg-type]
    )


def tasks(count: int, side: int, repeat: int) -> tuple[list[MixSpec], list[bytes]]:
    """`count` mixes, and their sources' JPEG files of `side` px. Each repeat has sources of its
    own, so that no cache knows them.
    """
    random = np.random.default_rng([repeat + 1, 0])
    files = [random_file(random, 8, side) for _ in range(-(-count // MIXES_PER_SOURCE))]
    order = random.permutation(MIXES_PER_SOURCE * len(files))[:count] // MIXES_PER_SOURCE
    specs = [
        MixSpec(
            mix_id=i,
            source_id=f"{repeat}/{row}",
            source_label=int(row) % 10,
            target_label=int(random.integers(10)),
            strength=float(np.float32(0.7)),
            seed=int(random.integers(2**31)),
        )
        for i, row in enumerate(order)
    ]
    return specs, [files[row] for row in order]


def mix_all(mixer: Mixer, specs: list[MixSpec], sources: list[bytes]) -> list[Image.Image]:
    """All mixes, chunk by chunk."""
    size, made = mixer.batch, []
    for i in range(0, len(specs), size):
        made += mixer.mix(specs[i : i + size], list(sources[i : i + size]))
    return made


class OneAtATime:
    """Stock `StableDiffusionImg2ImgPipeline`, one call for each image."""

    def __init__(self, mixer: Mixer, model: ModelConfig):
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline

        self.mixer = mixer
        self.pipe = StableDiffusionImg2ImgPipeline.from_pretrained(
            model.base, safety_checker=None
        ).to(mixer.device, mixer.dtype)
        self.pipe.scheduler = DPMSolverMultistepScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.set_progress_bar_config(disable=True)

    def __call__(self, specs: list[MixSpec], sources: list[bytes]) -> list[Image.Image]:
        side, mix = self.mixer.resolution, self.mixer.config
        made = []
        for spec, source in zip(specs, sources, strict=True):
            image = decode(source)
            result = self.pipe(
                self.mixer.prompts[spec.target_label],
                image=image.resize((side, side), Image.Resampling.BILINEAR),
                strength=round(spec.strength, 6),
                guidance_scale=mix.guidance_scale,
                num_inference_steps=mix.num_inference_steps,
                generator=torch.Generator().manual_seed(spec.seed),
            ).images[0]
            made.append(result.resize(image.size, Image.Resampling.BILINEAR))
        return made


def psnr(one: Image.Image, other: Image.Image) -> float:
    """The peak signal-to-noise ratio in dB; 100 for equal images."""
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    error = np.square(difference).mean()
    return float(10 * np.log10(255**2 / max(error, 255**2 * 1e-10)))


@record.without_tf32()
def agreement(model: ModelConfig, mix: MixConfig, count: int) -> float:
    """The lowest PSNR in dB between the two ways over `count` images, in fp32."""
    exact = ModelConfig(base=model.base, resolution=model.resolution, precision="fp32")
    mixer = Mixer(exact, mix, CLASSES, SUPERCLASS)
    specs, sources = tasks(count, mixer.resolution, 0)
    pairs = zip(
        mix_all(mixer, specs, sources), OneAtATime(mixer, exact)(specs, sources), strict=True
    )
    return min(psnr(one, other) for one, other in pairs)


@record.without_tf32()
def matmul_flops(dtype: torch.dtype, size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s of a product of two square matrices on the GPU, the best of `repeats`."""
    one, other = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(5):
            one @ other
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 5)
    return 2 * size**3 / best


@contextmanager
def base_model(base: str | None) -> Iterator[str]:
    """The folder of the base to measure: the given one, or nano's without a GPU, or else a
    temporary one with random weights.
    """
    if base or not torch.cuda.is_available():
        yield base_path(ModelConfig(base=base or "nano"))
        return
    with tempfile.TemporaryDirectory(prefix="diffmix-sd15-") as folder:
        yield str(write_sd15(Path(folder)))


def measure(
    model: ModelConfig, mix: MixConfig, mixes: int, alone: int, repeats: int
) -> dict[str, float]:
    """The figures. In each repeat the mixer makes `mixes` images, and the usual way `alone`."""
    if mix.batch == "auto":
        mix = replace(mix, batch=saturating_batch(model, mix))
    mixer = Mixer(model, mix, CLASSES, SUPERCLASS)
    usual = OneAtATime(mixer, model)
    mixes = -(-mixes // mixer.batch) * mixer.batch  # whole chunks
    prepared = {repeat: tasks(mixes, mixer.resolution, repeat) for repeat in range(-1, repeats)}

    def one_at_a_time(repeat: int) -> None:
        specs, sources = prepared[repeat]
        usual(specs[:alone], sources[:alone])

    seconds = record.interleaved(
        {"mixer": lambda repeat: mix_all(mixer, *prepared[repeat]), "alone": one_at_a_time}, repeats
    )
    rates = [mixes / taken for taken in seconds["mixer"]]
    rates_alone = [alone / taken for taken in seconds["alone"]]
    figures = {
        "ratio_to_one_at_a_time": record.median_ratio(rates, rates_alone),
        "images_per_second": statistics.median(rates),
        "images_per_second_one_at_a_time": statistics.median(rates_alone),
        "batch": mixer.batch,
        "repeats": repeats,
    }
    if mixer.device.type == "cuda":
        ceiling = matmul_flops(mixer.dtype)
        figures["ceiling_tflops"] = ceiling / 1e12
        is_sd15 = (
            mixer.pipe.unet.config.block_out_channels == (320, 640, 1280, 1280)
            and mixer.resolution == 512
        )
        if is_sd15:
            figures["fraction_of_ceiling"] = (
                figures["images_per_second"] * SD15_TFLOP * 1e12 / ceiling
            )
    return figures


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument(
        "--base",
        help="a diffusers folder or nano (default: nano; with a GPU SD 1.5 with random weights)",
    )
    parser.add_argument("--batch", default="auto", help="mixes in a chunk, or auto")
    parser.add_argument(
        "--mixes", type=int, default=64, help="images that the mixer makes in each repeat"
    )
    parser.add_argument(
        "--alone", type=int, default=8, help="images that the usual way makes in each repeat"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="with --model.compile")
    options = parser.parse_args()
    with base_model(options.base) as base:
        model = ModelConfig(base=base, compile=options.compile)
        mix = paper_settings("auto" if options.batch == "auto" else int(options.batch))
        figures = measure(model, mix, options.mixes, options.alone, options.repeats)
        figures["psnr_db_min"] = agreement(model, mix, min(16, options.mixes))
    device, dtype = device_and_dtype("auto")
    usual = "SD 1.5, random weights" if device == "cuda" else "nano"
    title = f"{options.base or usual} on {device}, {dtype}, medians of {options.repeats}"
    record.show(title, ["figure", "value"], [[name, value] for name, value in figures.items()])
    record.write(options.json, figures)


if __name__ == "__main__":
    main()
