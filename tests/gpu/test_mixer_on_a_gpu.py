"""The mixer on a CUDA device: `pytest -m gpu`. No device has run these yet."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.mixer_throughput import psnr
from diffmix.config import MixConfig
from diffmix.errors import UserError
from diffmix.generator.concept import prompt
from diffmix.generator.device.batch_size import LARGEST, saturating_batch
from diffmix.generator.device.measured import made_with_here
from diffmix.generator.mixer import Mixer
from diffmix.plan import MixSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def mixed(model, real, batch: int = 4, **options) -> np.ndarray:
    """uint8 [5, 32, 32, 3]: five mixes of the tiny base, in calls of `batch`."""
    mixer = Mixer(
        dataclasses.replace(model, **options),
        MixConfig(strategy="real-mix", num_inference_steps=6, batch=batch),
        real.class_names,
        real.superclass,
    )
    specs = [
        MixSpec(
            mix_id=i,
            source_id=real.image_ids[i],
            source_label=int(real.labels[i]),
            target_label=(i + 1) % 4,
            strength=0.7,
            seed=100 + i,
        )
        for i in range(5)
    ]
    sources = [real.image_bytes(i) for i in range(5)]
    calls = [mixer.mix(specs[i : i + batch], sources[i : i + batch]) for i in range(0, 5, batch)]
    return np.stack([np.asarray(image) for images in calls for image in images])


@pytest.fixture(scope="module")
def on_the_cpu(tiny_base, tiny_real):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
    from PIL import Image

    from diffmix.images import decode

    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_base, requires_safety_checker=False)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    made = []
    for i in range(5):
        source = decode(tiny_real.image_bytes(i)).resize((32, 32), Image.Resampling.BILINEAR)
        text = prompt(
            "a photo of a {token} {superclass}",
            None,
            tiny_real.class_names[(i + 1) % 4],
            tiny_real.superclass,
        )
        generator = torch.Generator().manual_seed(100 + i)
        made.append(
            pipe(
                text, image=source, strength=0.7, num_inference_steps=6, generator=generator
            ).images[0]
        )
    return np.stack([np.asarray(image) for image in made])


@pytest.mark.parametrize(("precision", "least"), [("fp32", 40), ("fp16", 30), ("bf16", 25)])
def test_every_precision_gives_the_stock_pipelines_images(
    tiny_model, tiny_real, on_the_cpu, precision, least
):
    assert psnr(mixed(tiny_model, tiny_real, precision=precision), on_the_cpu) > least


def test_xformers_gives_the_images_of_sdpa(tiny_model, tiny_real):
    pytest.importorskip("xformers")
    one, other = (
        mixed(tiny_model, tiny_real, precision="fp16", attention=attention)
        for attention in ("xformers", "sdpa")
    )
    assert psnr(one, other) > 30


def test_a_compiled_mixer_gives_the_same_images_with_a_short_last_call(tiny_model, tiny_real):
    one, other = (
        mixed(tiny_model, tiny_real, precision="fp16", compile=compiled)
        for compiled in (True, False)
    )
    assert psnr(one, other) > 30


def test_batch_auto_fits_and_is_no_single_image(tiny_model):
    chosen = saturating_batch(tiny_model, MixConfig(strategy="real-mix", num_inference_steps=6))
    assert 1 < chosen <= LARGEST


@pytest.mark.parametrize("changes", [{"attention": "cudnn"}, {"layout": "nchw"}])
def test_other_kernels_give_the_same_images(tiny_model, tiny_real, changes):
    usual = mixed(tiny_model, tiny_real, precision="fp16", attention="sdpa")
    try:
        other = mixed(tiny_model, tiny_real, precision="fp16", **{"attention": "sdpa", **changes})
    except UserError as error:
        pytest.skip(str(error))
    assert psnr(usual, other) > 30


def test_how_mixes_are_made_is_what_the_mixer_says(tiny_model, tiny_real):
    mix = MixConfig(strategy="real-mix", num_inference_steps=6, batch=4)
    found = made_with_here(tiny_model, mix)
    names = tiny_real.class_names
    mixer = Mixer(tiny_model, mix, names, tiny_real.superclass, made_with=found)
    assert mixer.made_with == found
    assert found["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize(("gpus", "expected"), [(0, "cpu 1.0"), (0.5, "cuda 0.5"), (1, "cuda 1.0")])
def test_a_process_takes_what_it_has_reserved(gpus, expected):
    code = (
        "import torch; from diffmix.devices import inference_device, take_share; "
        f"take_share(1, {gpus}); device = inference_device(); "
        "share = torch.cuda.get_per_process_memory_fraction() if device == 'cuda' else 1.0; "
        "print(device, share)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
