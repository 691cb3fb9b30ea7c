"""The mixer against the stock pipelines, mix by mix.

Covers `diffmix/generator/device/compiling.py`, `diffmix/generator/device/cores.py`,
`diffmix/generator/latent_images.py`, `diffmix/generator/samplers.py` and
`diffmix/generator/tiny_vae.py` too.
"""

import dataclasses
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffmix.config import MixConfig, replace
from diffmix.errors import UserError
from diffmix.generator.device import compiling
from diffmix.generator.mixer import Mixer
from diffmix.images import decode
from diffmix.plan import MixSpec
from diffmix.strategies import Strategy


def psnr(one: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(10 * np.log10(255**2 / max(1e-9, (difference**2).mean())))


def specs_of(real, count: int, strengths=(0.7,), seed: int = 100) -> list[MixSpec]:
    rows = [(7 * i + 5) % len(real) for i in range(count)]
    return [
        MixSpec(
            mix_id=i,
            source_id=real.image_ids[row],
            source_label=int(real.labels[row]),
            target_label=(3 * i + 1) % 4,
            strength=strengths[i % len(strengths)],
            seed=seed + i,
        )
        for i, row in enumerate(rows)
    ]


def sources_of(real, specs):
    return [real.image_bytes(real.index_of(spec.source_id)) for spec in specs]


def mixer_of(model, real, **options) -> Mixer:
    config = MixConfig(**{"strategy": "real-mix", "num_inference_steps": 6, **options})
    return Mixer(model, config, real.class_names, real.superclass)


@pytest.fixture(scope="module")
def stock(tiny_base):
    """The stock text-to-image pipeline, with the sampler that the paper's code uses."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    return pipe


def stock_image(
    stock, spec: MixSpec, source: bytes | None, prompt: str, mix: MixConfig, **changes
) -> Image.Image:
    """What a user of diffusers gets for one mix alone."""
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = (
        stock
        if source is None
        else StableDiffusionImg2ImgPipeline(**stock.components, requires_safety_checker=False)
    )
    pipe.set_progress_bar_config(disable=True)
    options = {"strength": round(spec.strength, 6), "seed": spec.seed, **changes}
    start = {}
    if source is not None:
        image = decode(source)
        start = {
            "image": image.resize((32, 32), Image.Resampling.BILINEAR),
            "strength": options["strength"],
        }
    made = pipe(
        prompt,
        **start,
        negative_prompt=mix.negative_prompt,
        guidance_scale=mix.guidance_scale,
        num_inference_steps=mix.num_inference_steps,
        generator=torch.Generator().manual_seed(options["seed"]),
        eta=options.get("eta", 0.0),
    ).images[0]
    return made if source is None else made.resize(image.size, Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def worst_psnr():
    """Collects the lowest value seen, for the log."""
    seen: list[float] = []
    yield seen
    print(f"\nlowest PSNR against stock: {min(seen):.1f} dB over {len(seen)} images")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_each_image_is_stocks_where_cores_share_a_batch(
    two_threads, stock, tiny_model, tiny_real, guidance
):
    mixer = mixer_of(tiny_model, tiny_real, guidance_scale=guidance)
    specs = specs_of(tiny_real, 33)
    sources = sources_of(tiny_real, specs)
    made = mixer.mix(specs, list(sources))
    assert mixer._threads is not None
    for spec, source, image in list(zip(specs, sources, made, strict=True))[::8]:
        assert (
            psnr(
                image,
                stock_image(stock, spec, source, mixer.prompts[spec.target_label], mixer.config),
            )
            > 40
        )
    assert all(
        np.array_equal(one, other)
        for one, other in zip(made, mixer.mix(specs, list(sources)), strict=True)
    )


@pytest.mark.parametrize(
    ("batch", "strengths", "guidance", "negative"),
    [
        (1, (0.7,), 7.5, ""),
        (4, (0.3,), 4.0, "blurry"),
        (4, (1.0,), 7.5, ""),
        (7, (0.7, 0.75), 7.5, ""),  # both run 4 of 6 steps
        (7, (0.5,), 1.0, "ignored without guidance"),
        (7, (float(np.float32(0.9)),), 4.0, ""),
    ],
)
def test_each_image_is_what_stock_img2img_gives_alone(
    stock, tiny_model, tiny_real, worst_psnr, batch, strengths, guidance, negative
):
    mixer = mixer_of(tiny_model, tiny_real, guidance_scale=guidance, negative_prompt=negative)
    specs = specs_of(tiny_real, batch, strengths)
    sources = sources_of(tiny_real, specs)
    images = mixer.mix(specs, sources)
    for spec, source, image in zip(specs, sources, images, strict=True):
        alone = stock_image(stock, spec, source, mixer.prompts[spec.target_label], mixer.config)
        assert image.size == decode(source).size
        worst_psnr.append(psnr(image, alone))
        assert worst_psnr[-1] > 40


def test_every_part_of_a_spec_matters(stock, tiny_model, tiny_real):
    """The comparison above can fail: another class, seed, strength, source gives another image."""
    mixer = mixer_of(tiny_model, tiny_real)
    spec = specs_of(tiny_real, 1)[0]
    source = sources_of(tiny_real, [spec])[0]
    image = mixer.mix([spec], [source])[0]
    other_class = stock_image(
        stock, spec, source, mixer.prompts[spec.target_label - 1], mixer.config
    )
    other_seed = stock_image(
        stock, spec, source, mixer.prompts[spec.target_label], mixer.config, seed=1
    )
    other_strength = stock_image(
        stock, spec, source, mixer.prompts[spec.target_label], mixer.config, strength=0.5
    )
    other_source = stock_image(
        stock, spec, tiny_real.image_bytes(0), mixer.prompts[spec.target_label], mixer.config
    )
    other_source = other_source.resize(image.size)
    assert (
        max(psnr(image, other) for other in (other_class, other_seed, other_strength, other_source))
        < 35
    )


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_mixes_from_noise_are_what_stock_text_to_image_gives(
    stock, tiny_model, tiny_real, worst_psnr, guidance
):
    mixer = mixer_of(tiny_model, tiny_real, strategy="real-gen", guidance_scale=guidance)
    specs = [
        MixSpec(
            mix_id=i,
            source_id="",
            source_label=i % 4,
            target_label=i % 4,
            strength=1.0,
            seed=2**61 + i,
        )
        for i in range(4)
    ]
    images = mixer.mix(specs, [None] * 4)
    for spec, image in zip(specs, images, strict=True):
        alone = stock_image(stock, spec, None, mixer.prompts[spec.target_label], mixer.config)
        assert image.size == (32, 32)
        worst_psnr.append(psnr(image, alone))
        assert worst_psnr[-1] > 40


def test_an_image_does_not_depend_on_its_batch_or_on_earlier_calls(tiny_model, tiny_real):
    mixer = mixer_of(tiny_model, tiny_real)
    specs = specs_of(tiny_real, 6)
    together = mixer.mix(specs, sources_of(tiny_real, specs))
    alone = [mixer.mix([spec], sources_of(tiny_real, [spec]))[0] for spec in specs]
    assert min(psnr(a, b) for a, b in zip(together, alone, strict=True)) > 50
    # The same batch is the same to the last bit, on a mixer that has worked and on a new one.
    again = mixer.mix(specs, sources_of(tiny_real, specs))
    fresh = mixer_of(tiny_model, tiny_real).mix(specs, sources_of(tiny_real, specs))
    for one, two, three in zip(together, again, fresh, strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()


def test_sources_are_encoded_once_while_they_fit_in_the_cache(tiny_model, tiny_real, monkeypatch):
    from diffmix.generator import latent_images as module

    mixer = mixer_of(tiny_model, tiny_real)
    specs = specs_of(tiny_real, 6)
    sources = sources_of(tiny_real, specs)
    before = mixer.mix(specs, sources)
    monkeypatch.setattr(mixer.pipe.vae, "encode", None)  # any further call fails
    assert [image.tobytes() for image in mixer.mix(specs, sources)] == [
        image.tobytes() for image in before
    ]
    monkeypatch.undo()

    monkeypatch.setattr(module, "_CACHE_BYTES", 3 * 2 * 4 * 8 * 8 * 4)
    small = mixer_of(tiny_model, tiny_real)
    assert [image.tobytes() for image in small.mix(specs, sources)] == [
        image.tobytes() for image in before
    ]
    assert len(small.images._cache) == 3


def test_pil_sources_are_taken_too(tiny_model, tiny_real):
    mixer = mixer_of(tiny_model, tiny_real)
    specs = specs_of(tiny_real, 2)
    sources = sources_of(tiny_real, specs)
    from_pil = mixer_of(tiny_model, tiny_real).mix(specs, [decode(source) for source in sources])
    assert [image.tobytes() for image in mixer.mix(specs, sources)] == [
        image.tobytes() for image in from_pil
    ]


def test_half_precision_stays_near_full_precision(tiny_model, tiny_real):
    specs = specs_of(tiny_real, 3)
    sources = sources_of(tiny_real, specs)
    full = mixer_of(tiny_model, tiny_real, guidance_scale=2.0).mix(specs, sources)
    half_model = replace(tiny_model, precision="bf16")
    half = mixer_of(half_model, tiny_real, guidance_scale=2.0).mix(specs, sources)
    values = [psnr(a, b) for a, b in zip(full, half, strict=True)]
    assert all(20 < value < 90 for value in values), values


def test_another_resolution(tiny_model, tiny_real):
    specs = specs_of(tiny_real, 2)
    native = mixer_of(tiny_model, tiny_real).mix(specs, sources_of(tiny_real, specs))
    large = mixer_of(replace(tiny_model, resolution=64), tiny_real)
    assert large.latent_shape == (1, 4, 16, 16)
    images = large.mix(specs, sources_of(tiny_real, specs))
    assert [image.size for image in images] == [image.size for image in native]
    assert images[0].tobytes() != native[0].tobytes()
    odd = mixer_of(replace(tiny_model, resolution=36), tiny_real)  # latents of 9, 5 and 9 again
    assert len(odd.mix(specs, sources_of(tiny_real, specs))) == 2
    with pytest.raises(UserError, match="multiple of 4"):
        mixer_of(replace(tiny_model, resolution=33), tiny_real)


def test_a_batch_runs_one_number_of_steps(tiny_model, tiny_real):
    mixer = mixer_of(tiny_model, tiny_real)
    specs = specs_of(tiny_real, 2, (0.5, 0.7))
    with pytest.raises(ValueError, match="denoising steps"):
        mixer.mix(specs, sources_of(tiny_real, specs))
    assert mixer.mix([], []) == []


def test_a_strategy_of_concepts_needs_one(tiny_model, tiny_real):
    with pytest.raises(UserError, match=r"--mix.strategy ti-mix needs a concept"):
        mixer_of(tiny_model, tiny_real, strategy="ti-mix")


def scene_prompt(context, spec):
    return f"{context.class_prompts[spec.target_label]} beside a {context.class_names[0]}"


def away_from_the_source(context, spec):
    return context.class_prompts[spec.source_label]


@pytest.fixture
def own(monkeypatch):
    """A function that names a strategy of one's own, as a module beside the user's script."""

    def make(**parts) -> str:
        strategy = Strategy(**{"name": "own", "generator": "base", **parts})
        monkeypatch.setitem(sys.modules, "own_module", SimpleNamespace(OWN=strategy))
        return "own_module:OWN"

    return make


def test_a_strategy_gives_each_mix_its_prompts(stock, tiny_model, tiny_real, worst_psnr, own):
    name = own(prompt=scene_prompt, negative_prompt=away_from_the_source)
    mixer = mixer_of(tiny_model, tiny_real, strategy=name, guidance_scale=4.0)
    specs = specs_of(tiny_real, 5)
    sources = sources_of(tiny_real, specs)
    for spec, source, image in zip(specs, sources, mixer.mix(specs, sources), strict=True):
        away = dataclasses.replace(mixer.config, negative_prompt=mixer.prompts[spec.source_label])
        alone = stock_image(stock, spec, source, scene_prompt(mixer.context, spec), away)
        worst_psnr.append(psnr(image, alone))
        assert worst_psnr[-1] > 40
        usual = stock_image(stock, spec, source, mixer.prompts[spec.target_label], mixer.config)
        assert psnr(image, usual) < 35


def keep_the_left_half(mixer, specs, sources, steps):
    latents = mixer.denoise(specs, sources, steps)
    real = torch.cat([source.mean for source in sources]) * mixer.pipe.vae.config.scaling_factor
    half = latents.shape[-1] // 2
    return torch.cat([real[..., :half], latents[..., half:]], dim=-1)


def test_a_strategy_may_denoise_in_its_own_way(tiny_model, tiny_real, own):
    specs = specs_of(tiny_real, 3)
    sources = sources_of(tiny_real, specs)
    usual = mixer_of(tiny_model, tiny_real)
    own_mixer = mixer_of(tiny_model, tiny_real, strategy=own(denoise=keep_the_left_half))
    encoded = [
        usual.images.encode(spec.source_id, image)
        for spec, image in zip(specs, sources, strict=True)
    ]
    latents = keep_the_left_half(usual, specs, encoded, 4)
    (pixels,) = usual.images.decode(latents)
    for image, wanted, plain in zip(
        own_mixer.mix(specs, sources), pixels, usual.mix(specs, sources), strict=True
    ):
        scaled = Image.fromarray(wanted).resize(image.size, Image.Resampling.BILINEAR)
        assert image.tobytes() == scaled.tobytes()
        assert image.tobytes() != plain.tobytes()


def other_parts(stock, **parts):
    """The stock pipeline with some of its parts replaced."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(**{**stock.components, **parts}, requires_safety_checker=False)


@pytest.mark.parametrize(
    ("sampler", "kind", "eta"), [("lcm", "LCMScheduler", 0.0), ("tcd", "TCDScheduler", 0.3)]
)
def test_few_step_samplers_are_what_stock_img2img_gives(
    stock, tiny_model, tiny_real, worst_psnr, sampler, kind, eta
):
    import diffusers

    mixer = mixer_of(tiny_model, tiny_real, sampler=sampler, guidance_scale=1.5)
    pipe = other_parts(
        stock, scheduler=getattr(diffusers, kind).from_config(stock.scheduler.config)
    )
    specs = specs_of(tiny_real, 4)
    sources = sources_of(tiny_real, specs)
    images = mixer.mix(specs, sources)
    usual = mixer_of(tiny_model, tiny_real, guidance_scale=1.5).mix(specs, sources)
    for spec, source, image, other in zip(specs, sources, images, usual, strict=True):
        alone = stock_image(
            pipe, spec, source, mixer.prompts[spec.target_label], mixer.config, eta=eta
        )
        worst_psnr.append(psnr(image, alone))
        assert worst_psnr[-1] > 40
        assert psnr(image, other) < 35  # the sampler matters
    again = mixer.mix(specs, sources)  # nothing is left over from the first call
    assert [image.tobytes() for image in again] == [image.tobytes() for image in images]


@pytest.fixture(scope="module")
def sampler_lora(tmp_path_factory, tiny_base):
    """A LoRA with random weights, written by diffusers itself."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = StableDiffusionPipeline.from_pretrained(tiny_base).unet
    torch.manual_seed(0)
    unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(
        folder, convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    )
    return folder / "pytorch_lora_weights.safetensors"


def test_the_samplers_lora_is_what_stock_gives_with_it(
    tiny_base, tiny_model, tiny_real, worst_psnr, sampler_lora
):
    from diffusers import LCMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(sampler_lora)
    mixer = mixer_of(tiny_model, tiny_real, sampler="lcm", sampler_lora=str(sampler_lora))
    specs = specs_of(tiny_real, 3)
    sources = sources_of(tiny_real, specs)
    without = mixer_of(tiny_model, tiny_real, sampler="lcm").mix(specs, sources)
    for spec, source, image, bare in zip(
        specs, sources, mixer.mix(specs, sources), without, strict=True
    ):
        alone = stock_image(pipe, spec, source, mixer.prompts[spec.target_label], mixer.config)
        worst_psnr.append(psnr(image, alone))
        assert worst_psnr[-1] > 40
        assert psnr(image, bare) < 35


def test_a_lora_that_is_none(tiny_model, tiny_real, tmp_path):
    with pytest.raises(UserError, match=r"no LoRA at .*missing"):
        mixer_of(
            tiny_model, tiny_real, sampler="lcm", sampler_lora=str(tmp_path / "missing.safetensors")
        )
    other = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(UserError, match="does not fit the base model"):
        mixer_of(tiny_model, tiny_real, sampler="lcm", sampler_lora=str(other))


def tiny_vae(folder, channels: int = 4, levels: int = 3):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * levels,
        decoder_block_out_channels=(8,) * levels,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=(1,) * levels,
        latent_channels=channels,
        scaling_factor=0.7,
    )
    vae.save_pretrained(folder)
    return vae


def test_a_tiny_vae_is_what_stock_gives_with_it(stock, tiny_model, tiny_real, worst_psnr, tmp_path):
    pipe = other_parts(stock, vae=tiny_vae(tmp_path))
    mixer = mixer_of(replace(tiny_model, tiny_vae=str(tmp_path)), tiny_real)
    specs = specs_of(tiny_real, 4)
    sources = sources_of(tiny_real, specs)
    images = mixer.mix(specs, sources)
    usual = mixer_of(tiny_model, tiny_real).mix(specs, sources)
    for spec, source, image, other in zip(specs, sources, images, usual, strict=True):
        alone = stock_image(pipe, spec, source, mixer.prompts[spec.target_label], mixer.config)
        worst_psnr.append(psnr(image, alone))
        assert worst_psnr[-1] > 40
        assert psnr(image, other) < 35


def test_a_tiny_vae_that_is_none_or_of_another_shape(tiny_base, tiny_model, tiny_real, tmp_path):
    for path, reason in (
        (tmp_path, "no readable config.json"),
        (tiny_base / "vae", "AutoencoderKL"),
    ):
        with pytest.raises(UserError, match=f"not a folder of an AutoencoderTiny .{reason}"):
            mixer_of(replace(tiny_model, tiny_vae=str(path)), tiny_real)
    tiny_vae(tmp_path / "eight", levels=4)
    tiny_model = replace(tiny_model, tiny_vae=str(tmp_path / "eight"))
    with pytest.raises(
        UserError, match="4 channels at 1/8 of the size, but the base model takes 4 at 1/4"
    ):
        mixer_of(tiny_model, tiny_real)


def test_guidance_in_an_interval_is_what_a_loop_by_hand_gives(stock, tiny_model, tiny_real):
    """Steps 2 to 5 of 6 run. Guidance is on in the middle half, [1.5, 4.5): in steps 2, 3 and 4."""
    from diffusers import DPMSolverMultistepScheduler
    from diffusers.image_processor import VaeImageProcessor

    mixer = mixer_of(tiny_model, tiny_real, guidance_interval=(0.25, 0.75))
    spec = next(
        spec for spec in specs_of(tiny_real, 6) if spec.source_id != "image/5.png"
    )  # one of the model's own size
    source = sources_of(tiny_real, [spec])[0]
    image = mixer.mix([spec], [source])[0]

    generator = torch.Generator().manual_seed(spec.seed)
    scheduler = DPMSolverMultistepScheduler.from_config(stock.scheduler.config)
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(2)
    processor = VaeImageProcessor()
    with torch.no_grad():
        conditional, unconditional = stock.encode_prompt(
            mixer.prompts[spec.target_label], "cpu", 1, True, ""
        )
        latents = (
            stock.vae.encode(processor.preprocess(decode(source))).latent_dist.sample(generator)
            * stock.vae.config.scaling_factor
        )
        noise = torch.randn(latents.shape, generator=generator)
        latents = scheduler.add_noise(latents, noise, scheduler.timesteps[2:3])
        for step in (2, 3, 4, 5):
            timestep = scheduler.timesteps[step]
            predicted = stock.unet(latents, timestep, conditional).sample
            if step < 5:
                away = stock.unet(latents, timestep, unconditional).sample
                predicted = away + 7.5 * (predicted - away)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
        by_hand = processor.postprocess(
            stock.vae.decode(latents / stock.vae.config.scaling_factor).sample
        )[0]
    assert psnr(image, by_hand) > 40
    always = mixer_of(tiny_model, tiny_real).mix([spec], [source])[0]
    assert psnr(always, by_hand) < 40
    never = mixer_of(tiny_model, tiny_real, guidance_interval=(0.5, 0.5)).mix([spec], [source])[0]
    off = mixer_of(tiny_model, tiny_real, guidance_scale=1.0).mix([spec], [source])[0]
    assert never.tobytes() == off.tobytes()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler on a CPU")
def test_compiled_blocks_give_the_same_images_and_short_chunks_compile_nothing(
    tiny_model, tiny_real
):
    specs = specs_of(tiny_real, 4)
    sources = sources_of(tiny_real, specs)
    plain = mixer_of(tiny_model, tiny_real, batch=4).mix(specs, sources)
    mixer = mixer_of(replace(tiny_model, compile=True), tiny_real, batch=4)
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    compiled = mixer.mix(specs, sources)
    graphs = stats["unique_graphs"]
    assert graphs > before
    short = mixer.mix(specs[:3], sources[:3])
    assert stats["unique_graphs"] == graphs
    assert min(psnr(a, b) for a, b in zip(compiled, plain, strict=True)) > 40
    assert min(psnr(a, b) for a, b in zip(short, plain, strict=False)) > 40
    assert [image.tobytes() for image in mixer.mix(specs[:3], sources[:3])] == [
        image.tobytes() for image in short
    ]


def test_every_thread_has_the_cores_that_the_mixer_was_made_with(tiny_model, tiny_real):
    def mixed() -> tuple[list[bytes], int]:
        return [image.tobytes() for image in mixer.mix(specs, sources)], torch.get_num_threads()

    torch.set_num_threads(2)
    try:
        mixer = mixer_of(tiny_model, tiny_real, batch=16)
        specs = specs_of(tiny_real, 16)
        sources = sources_of(tiny_real, specs)
        with ThreadPoolExecutor(1) as first:  # begins before the mixer's own threads, as Ray's do
            before = first.submit(mixed).result()
            with ThreadPoolExecutor(1) as second:
                after = second.submit(mixed).result()
            assert before == after == first.submit(mixed).result() == mixed()
            assert after[1] == 2
            assert mixer._threads is not None
            assert set(mixer._threads.map(lambda _: torch.get_num_threads(), range(2))) == {1}
    finally:
        torch.set_num_threads(1)


class Full:
    """Stands in for a model whose memory holds `most` rows; remembers what it was called with."""

    def __init__(self, call, most: int):
        self.call, self.most, self.rows = call, most, []

    def __call__(self, inputs, *args, **kwargs):
        self.rows.append(len(inputs))
        if len(inputs) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return self.call(inputs, *args, **kwargs)


def test_a_batch_that_does_not_fit_is_halved_inside_the_call(tiny_model, tiny_real, monkeypatch):
    mixer = mixer_of(tiny_model, tiny_real)
    specs = specs_of(tiny_real, 6)
    sources = sources_of(tiny_real, specs)
    usual = mixer.mix(specs, sources)
    assert "mixes_at_once" not in mixer.made_with
    unet, decoder = Full(mixer.pipe.unet.forward, 4), Full(mixer.pipe.vae.decode, 2)
    monkeypatch.setattr(mixer.pipe.unet, "forward", unet)
    monkeypatch.setattr(mixer.pipe.vae, "decode", decoder)
    images = mixer.mix(specs, sources)
    # With guidance a mix is two rows.
    assert unet.rows[:3] == [12, 6, 2]
    assert set(unet.rows[2:]) == {2}
    assert decoder.rows == [6, 3, 1, 1, 1, 1, 1, 1]
    assert min(psnr(one, other) for one, other in zip(images, usual, strict=True)) > 40
    assert [image.size for image in images] == [image.size for image in usual]
    assert (mixer.made_with["mixes_at_once"], mixer.made_with["decoded_at_once"]) == (1, 1)
    unet.rows.clear()
    mixer.mix(specs[:2], sources[:2])
    assert set(unet.rows) == {2}, "remembered"


def test_one_mix_that_does_not_fit_is_one_sentence(tiny_model, tiny_real, monkeypatch):
    mixer = mixer_of(tiny_model, tiny_real)
    specs = specs_of(tiny_real, 2)
    for part, name, says in (
        (mixer.pipe.vae, "decode", "The VAE's decoder for one image of 32 px does not fit"),
        (mixer.pipe.unet, "forward", "One mix of 32 px does not fit in memory"),
        (mixer.pipe.vae, "encode", "The VAE's encoder for one image of 32 px does not fit"),
    ):
        monkeypatch.setattr(part, name, Full(None, 0))
        mixer.images._cache.clear()
        with pytest.raises(UserError, match=says):
            mixer.mix(specs, sources_of(tiny_real, specs))


def test_sources_of_one_call_do_not_change_each_others_latents(tiny_model, tiny_real, monkeypatch):
    """As on a GPU: in calls of one size, whatever the cache holds."""

    def latents(*calls: list[int]) -> dict[str, bytes]:
        mixer = mixer_of(tiny_model, tiny_real)
        mixer.images.encoder.most = 4
        encoder = Full(mixer.pipe.vae.encode, 4)
        monkeypatch.setattr(mixer.pipe.vae, "encode", encoder)
        found = {}
        with torch.inference_mode():
            for rows in calls:
                ids = [specs[row].source_id for row in rows]
                images = [sources[row] for row in rows]
                for name, source in zip(ids, mixer.images.encode_all(ids, images), strict=True):
                    found[name] = source.mean.numpy().tobytes() + source.std.numpy().tobytes()
        assert set(encoder.rows) == {4}
        return found

    specs = specs_of(tiny_real, 6)
    sources = sources_of(tiny_real, specs)
    together = latents([0, 1, 2, 3, 4, 5, 0, 1])
    assert together == latents([5, 3], [4], [0, 1, 2, 3, 4])
    mixer = mixer_of(tiny_model, tiny_real)
    with torch.inference_mode():
        alone = mixer.images.encode(specs[5].source_id, sources[5]).mean.numpy()
    mean = np.frombuffer(together[specs[5].source_id], dtype=np.float32)[: alone.size]
    np.testing.assert_allclose(mean, alone.ravel(), rtol=1e-4, atol=1e-5)


def test_sources_may_be_prepared_beforehand(tiny_model, tiny_real):
    mixer = mixer_of(tiny_model, tiny_real)
    specs = specs_of(tiny_real, 4)
    sources = sources_of(tiny_real, specs)
    with ThreadPoolExecutor(1) as other:
        prepared = other.submit(mixer.prepare, specs, sources).result()
    assert all(one.image is not None and one.image.size == (32, 32) for one in prepared)
    made = [image.tobytes() for image in mixer.mix(specs, prepared)]
    again = mixer.prepare(specs, sources)
    assert all(one.image is None for one in again), "they are in the cache"
    assert [image.tobytes() for image in mixer.mix(specs, again)] == made
    mixer.images._cache.clear()
    assert [image.tobytes() for image in mixer.mix(specs, again)] == made, "and fell out of it"
    fresh = mixer_of(tiny_model, tiny_real)
    assert [image.tobytes() for image in fresh.mix(specs, sources)] == made
    noise = mixer_of(tiny_model, tiny_real, strategy="real-gen")
    assert noise.prepare(specs, [None] * 4) == [None] * 4
    with pytest.raises(ValueError, match="has no source image"):
        mixer.prepare(specs, [None] * 4)


@pytest.fixture
def uncompiled(monkeypatch):
    """torch.compile with a backend that runs the graph as it is: no compiler is needed."""
    real = torch.compile

    def compile_(model, **options):
        return real(model, **{**options, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", compile_)
    settings = torch._dynamo.config
    before = settings.recompile_limit, settings.fail_on_recompile_limit_hit
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    settings.recompile_limit, settings.fail_on_recompile_limit_hit = before


def test_a_compiled_mixer_makes_one_graph_for_each_guidance_mode(uncompiled, tiny_model, tiny_real):
    specs = specs_of(tiny_real, 4)
    sources = sources_of(tiny_real, specs)
    options = {"batch": 4, "guidance_interval": (0.5, 1.0)}
    plain = mixer_of(tiny_model, tiny_real, **options).mix(specs, sources)
    model = replace(tiny_model, compile=True, compile_scope="all")
    mixer = mixer_of(model, tiny_real, **options)
    assert mixer.made_with["compile"] == "all"
    compiled = mixer.mix(specs, sources)
    assert mixer.graphs == 3  # with guidance, without, and the decoder
    short = mixer.mix(specs[:3], sources[:3])
    assert mixer.graphs == 3, "a short chunk is filled up"
    assert min(psnr(a, b) for a, b in zip(compiled, plain, strict=True)) > 40
    assert min(psnr(a, b) for a, b in zip(short, plain, strict=False)) > 40


def test_a_shape_too_many_is_an_error_and_not_slow(uncompiled, tiny_model, tiny_real, monkeypatch):
    monkeypatch.setattr(compiling, "_SHAPES", 1)
    model = replace(tiny_model, compile=True, compile_scope="unet")
    mixer = mixer_of(model, tiny_real, batch=1)
    specs = specs_of(tiny_real, 2)
    sources = sources_of(tiny_real, specs)
    mixer.mix(specs[:1], sources[:1])
    with pytest.raises(Exception, match="recompile"):
        mixer.mix(specs, sources)
