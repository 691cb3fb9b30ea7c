"""Personalization: what is trained, that it learns, that it resumes and spreads over workers
without a change.

Covers `diffmix/personalize/modules.py` and `diffmix/personalize/large_batch.py` too.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from diffmix.config import MixConfig, PersonalizeConfig, replace
from diffmix.errors import UserError
from diffmix.generator.base_model import base_fingerprint, load_base
from diffmix.generator.concept import Concept
from diffmix.generator.mixer import Mixer
from diffmix.personalize import train as module
from diffmix.personalize.settings import concept_settings
from diffmix.personalize.train import Attempt, train_concept
from diffmix.plan import MixSpec
from diffmix.storage import Folder

FILES = ("learned_embeds.safetensors", "pytorch_lora_weights.safetensors")


def settings(**changes) -> PersonalizeConfig:
    return PersonalizeConfig(
        **{
            "steps": 4,
            "batch_size": 2,
            "lora_rank": 2,
            "lora_lr": 1e-2,
            "token_lr": 1e-2,
            "checkpoint_every": 2,
            **changes,
        }
    )


def weights(folder) -> dict[str, torch.Tensor]:
    return {
        f"{name}:{key}": value
        for name in FILES
        if (folder / name).exists()
        for key, value in load_file(folder / name).items()
    }


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def spy(monkeypatch):
    """The pipelines that training loads, to look at after."""
    pipes = []

    def load(*args):
        pipes.append(load_base(*args))
        return pipes[-1]

    monkeypatch.setattr(module, "load_base", load)
    return pipes


def test_only_new_rows_and_lora_are_trained(tmp_path, tiny_model, tiny_real, spy):
    losses: list[float] = []
    concept = train_concept(
        tiny_model,
        settings(vectors_per_token=2),
        tiny_real,
        tmp_path / "concept",
        0,
        Attempt(on_step=lambda _, x: losses.append(x)),
    )
    assert len(losses) == 4
    pipe, base = spy[0], load_base(tiny_model, "cpu", torch.float32)
    for part in ("unet", "vae", "text_encoder"):
        trained = getattr(pipe, part).state_dict()
        for name, value in getattr(base, part).state_dict().items():
            other = trained.get(
                name,
                trained.get(
                    name.replace(".weight", ".base_layer.weight").replace(
                        ".bias", ".base_layer.bias"
                    )
                ),
            )
            other = (
                trained.get(name.replace("token_embedding.", "token_embedding.base."))
                if other is None
                else other
            )
            assert torch.equal(value, other), name
    with_gradient = {
        name
        for part in (pipe.unet, pipe.vae, pipe.text_encoder)
        for name, p in part.named_parameters()
        if p.requires_grad
    }
    assert all("lora_" in name or name.endswith("token_embedding.rows") for name in with_gradient)

    assert Concept.load(tmp_path / "concept") == concept
    assert concept.tokens["lynx"] == "<class_3>"
    assert concept.base_fingerprint == base_fingerprint(tiny_model)
    assert concept.data_fingerprint == tiny_real.fingerprint
    assert (
        concept.settings
        == concept_settings(settings(vectors_per_token=2), all_square=False)
        == json.loads(json.dumps(concept.settings))
    )
    stored = weights(tmp_path / "concept")
    assert stored["learned_embeds.safetensors:<class_3>"].shape == (2, 32)
    start = (
        base.text_encoder.get_input_embeddings()
        .weight[base.tokenizer("animal", add_special_tokens=False).input_ids]
        .mean(0)
    )
    assert all((rows - start).abs().max() > 1e-3 for key, rows in stored.items() if "embeds" in key)
    assert all(value.abs().max() > 0 for key, value in stored.items() if "lora" in key)


@pytest.mark.parametrize(("tokens", "lora"), [(True, False), (False, True)])
def test_tokens_or_lora_alone(tmp_path, tiny_model, tiny_real, tokens, lora):
    concept = train_concept(
        tiny_model, settings(tokens=tokens, lora=lora), tiny_real, tmp_path / "concept", 0
    )
    assert [(tmp_path / "concept" / name).exists() for name in FILES] == [tokens, lora]
    mixer = Mixer(
        tiny_model,
        MixConfig(num_inference_steps=2),
        tiny_real.class_names,
        "animal",
        concept.folder,
    )
    assert mixer.prompts[0] == (
        "a photo of a <class_0> animal" if tokens else "a photo of a Red Fox animal"
    )
    assert (
        len(
            mixer.mix(
                [
                    MixSpec(
                        mix_id=0,
                        source_id="a",
                        source_label=0,
                        target_label=1,
                        strength=1.0,
                        seed=0,
                    )
                ],
                [tiny_real.image_bytes(0)],
            )
        )
        == 1
    )
    if not tokens:
        with pytest.raises(UserError, match="needs class tokens"):
            Mixer(
                tiny_model,
                MixConfig(strategy="ti-mix"),
                tiny_real.class_names,
                "animal",
                concept.folder,
            )


@pytest.mark.trains
def test_the_loss_falls(tmp_path, tiny_model, tiny_real):
    losses: list[float] = []
    config = settings(steps=40, batch_size=8, lora_rank=8, lora_lr=3e-2, token_lr=3e-2)
    train_concept(
        tiny_model,
        config,
        tiny_real,
        tmp_path / "concept",
        0,
        Attempt(on_step=lambda _, loss: losses.append(loss)),
    )
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    print(f"loss {first:.3f} -> {last:.3f}")
    assert last < 0.9 * first


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, tiny_model, tiny_real):
    config = settings(
        steps=5,
        noise_offset=0.1,
        prompt_dropout=0.3,
        prompts=("a {token}", "one {token} {superclass}"),
    )
    seen: list[int] = []

    def keep(folder, done):
        seen.append(done)
        shutil.copytree(folder, tmp_path / f"checkpoint-{done}")

    train_concept(tiny_model, config, tiny_real, tmp_path / "whole", 3, Attempt(on_checkpoint=keep))
    assert seen == [2, 4]
    steps: list[int] = []
    resume = Attempt(
        resume_from=tmp_path / "checkpoint-2", on_step=lambda done, _: steps.append(done)
    )
    train_concept(tiny_model, config, tiny_real, tmp_path / "resumed", 3, resume)
    assert steps == [3, 4, 5]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert (
        Concept.load(tmp_path / "whole").fingerprint
        == Concept.load(tmp_path / "resumed").fingerprint
    )

    with pytest.raises(UserError, match="is of a run with other settings"):
        train_concept(tiny_model, config, tiny_real, tmp_path / "x", 4, resume)
    broken = Attempt(resume_from=tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        train_concept(tiny_model, config, tiny_real, tmp_path / "x", 3, broken)


OPTIONS = [
    {"token_lr": 1e-3},
    {"lora_lr": 1e-3},
    {"initializer": "{class_name}"},
    {"initializer": 7},
    {"resolution": 36},
    {"resize_mode": "squash"},
    {"cached_crops": 2},
    {"global_batch_size": 3},
    {"token_weight_decay": 0.5},
    {"prompts": ("a drawing of {token}",)},
    {"prompt_dropout": 1.0},
    {"flip": False},
    {"class_balanced": True},
    {"snr_gamma": 1.0},
    {"noise_offset": 0.5},
    {"weight_decay": 5.0},
    {"max_grad_norm": 1e-6},  # Adam hardly cares for the gradient's length, except near its epsilon
    {"steps": 3},
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_base, tiny_real):
    from diffmix.config import ModelConfig

    folder = tmp_path_factory.mktemp("plain") / "concept"
    train_concept(
        ModelConfig(base=str(tiny_base), precision="fp32"), settings(steps=2), tiny_real, folder, 0
    )
    return weights(folder)


@pytest.mark.parametrize("change", OPTIONS, ids=lambda change: next(iter(change)))
def test_every_option_changes_the_outcome(tmp_path, tiny_model, tiny_real, plain, change):
    train_concept(
        tiny_model, settings(**{"steps": 2, **change}), tiny_real, tmp_path / "concept", 0
    )
    assert not same(plain, weights(tmp_path / "concept"))


def test_the_seed_decides_all(tmp_path, tiny_model, tiny_real, plain):
    torch.manual_seed(99)
    train_concept(tiny_model, settings(steps=2), tiny_real, tmp_path / "same", 0)
    train_concept(tiny_model, settings(steps=2), tiny_real, tmp_path / "other", 1)
    assert same(plain, weights(tmp_path / "same"))
    assert not same(plain, weights(tmp_path / "other"))


def test_accumulation_and_checkpointing_change_only_rounding(
    tmp_path, tiny_model, tiny_real, plain
):
    accumulated = settings(
        steps=2, batch_size=1, gradient_accumulation_steps=2, gradient_checkpointing=True
    )
    train_concept(tiny_model, accumulated, tiny_real, tmp_path / "concept", 0)
    other = weights(tmp_path / "concept")
    assert max((plain[key] - other[key]).abs().max() for key in plain) < 1e-3


def test_compiled_blocks_give_the_same(tmp_path, tiny_model, tiny_real, plain, spy):
    with torch.compiler.set_stance(
        "force_eager"
    ):  # what the compiler makes of them is its own affair
        train_concept(
            tiny_model, settings(steps=2, compile=True), tiny_real, tmp_path / "concept", 0
        )
    blocks = [
        module
        for module in spy[0].unet.modules()
        if type(module).__name__ == "BasicTransformerBlock"
    ]
    assert blocks
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert same(plain, weights(tmp_path / "concept"))


PRIOR = {"steps": 2, "prior_weight": 0.5, "prior_images": 12}  # two chunks, one for each worker
SPLITS = {
    "even": {"batch_size": 1},
    "global": {"global_batch_size": 2},
    "uneven": {"global_batch_size": 5, "gradient_accumulation_steps": 2},
}
"""What two workers train with; one worker trains with batches of 2, or of 5."""


def _rank(rank, folder, model, real):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    losses: dict[str, list[float]] = {}
    try:
        for name, split in SPLITS.items():
            seen = losses.setdefault(name, [])
            attempt = Attempt(
                rank=rank, world_size=2, on_step=lambda _, x, seen=seen: seen.append(x.item())
            )
            train_concept(
                model, settings(**split, **PRIOR), real, folder / name / "concept", 0, attempt
            )
        (folder / f"losses-{rank}.json").write_text(json.dumps(losses))
    finally:
        dist.destroy_process_group()


@pytest.mark.trains
def test_two_workers_do_what_one_with_twice_the_batch_does(tmp_path, tiny_model, tiny_real):
    alone: dict[str, list[float]] = {}
    for name in ("even", "uneven"):
        size = {"even": 2, "uneven": 5}[name]
        seen = alone.setdefault(name, [])
        attempt = Attempt(on_step=lambda _, x, seen=seen: seen.append(x.item()))
        config = settings(batch_size=size, **PRIOR)
        train_concept(tiny_model, config, tiny_real, tmp_path / f"one-{name}/concept", 0, attempt)
    alone["global"] = alone["even"]
    other_rank = torch.multiprocessing.get_context("spawn").Process(
        target=_rank, args=(1, tmp_path, tiny_model, tiny_real), daemon=True
    )
    other_rank.start()
    _rank(0, tmp_path, tiny_model, tiny_real)
    other_rank.join(60)
    assert other_rank.exitcode == 0
    images = [
        {file.name: file.read_bytes() for file in (tmp_path / where).rglob("*.png")}
        for where in ("even/prior", "one-even/prior")
    ]
    assert images[0] == images[1]
    assert len(images[0]) == 16
    ranks = [json.loads((tmp_path / f"losses-{rank}.json").read_text()) for rank in (0, 1)]
    for name in SPLITS:
        mean = [sum(both) / 2 for both in zip(ranks[0][name], ranks[1][name], strict=True)]
        assert mean == pytest.approx(alone[name], rel=1e-4)
        same_as = "one-even" if name == "global" else f"one-{name}"
        one, two = (weights(tmp_path / where / "concept") for where in (same_as, name))
        difference = max((one[key] - two[key]).abs().max() for key in one)
        print(f"{name}: largest difference of a weight: {difference:.1e}")
        assert difference < 1e-3


def test_a_global_batch_takes_the_place_of_a_workers(tmp_path, tiny_model, tiny_real, plain):
    """2 at once, or one after the other; `batch_size` has no part in it."""
    for parts in (1, 2):
        config = settings(
            steps=2, batch_size=7, global_batch_size=2, gradient_accumulation_steps=parts
        )
        train_concept(tiny_model, config, tiny_real, tmp_path / f"{parts}", 0)
        other = weights(tmp_path / f"{parts}")
        assert max((plain[key] - other[key]).abs().max() for key in plain) < 1e-3
    too_small = settings(global_batch_size=2, gradient_accumulation_steps=3)
    with pytest.raises(UserError, match=r"global_batch_size is 2, but .* choose at least 3"):
        train_concept(tiny_model, too_small, tiny_real, tmp_path / "small", 0)


def test_rows_are_not_clipped_where_the_lora_alone_is(tmp_path, tiny_model, tiny_real):
    """Adam hardly moves what was scaled down to far below its epsilon."""
    away = []
    for clip_tokens in (True, False):
        config = settings(
            steps=1, max_grad_norm=1e-12, clip_tokens=clip_tokens, initializer=7, weight_decay=0.0
        )
        train_concept(tiny_model, config, tiny_real, tmp_path / f"{clip_tokens}", 0)
        stored = weights(tmp_path / f"{clip_tokens}")
        up = [value for key, value in stored.items() if "lora_B" in key or "lora.up" in key]
        assert up
        assert max(value.abs().max() for value in up) < 1e-5
        rows = torch.cat([value for key, value in stored.items() if "<class_" in key])
        start = load_base(tiny_model, "cpu", torch.float32).text_encoder.get_input_embeddings()
        away.append((rows - start.weight[7]).abs().max())
    assert away[0] < 1e-5
    assert away[1] > 5e-3  # token_lr is 1e-2


def test_rows_start_from_the_token_with_a_number(tmp_path, tiny_model, tiny_real):
    still = {"steps": 1, "token_lr": 1e-30, "vectors_per_token": 2}
    train_concept(tiny_model, settings(initializer=7, **still), tiny_real, tmp_path / "a", 0)
    base = load_base(tiny_model, "cpu", torch.float32)
    start = base.text_encoder.get_input_embeddings().weight[7]
    for rows in load_file(tmp_path / "a" / FILES[0]).values():
        torch.testing.assert_close(rows, start.expand(2, -1))
    none = settings(initializer=len(base.tokenizer))
    with pytest.raises(UserError, match=r"initializer is \d+, but the base model has \d+ tokens"):
        train_concept(tiny_model, none, tiny_real, tmp_path / "b", 0)


@pytest.mark.parametrize("crops", [{}, {"cached_crops": 3}])
def test_mixes_keep_their_size_where_a_concept_is_trained_at_another(
    tmp_path, tiny_model, tiny_real, crops, spy
):
    sides = []
    for change in ({}, {"resolution": 24}):
        train_concept(
            tiny_model, settings(steps=1, **crops, **change), tiny_real, tmp_path / "concept", 0
        )
        mixer = Mixer(tiny_model, MixConfig(), ["lynx"], "animal", tmp_path / "concept")
        sides.append(mixer.resolution)
    assert sides == [32, 32]
    wrong = settings(resolution=33)
    with pytest.raises(UserError, match=r"--personalize\.resolution is 33"):
        train_concept(tiny_model, wrong, tiny_real, tmp_path / "x", 0)


def test_half_precision_trains_in_full_precision(tmp_path, tiny_model, tiny_real, plain):
    tiny_model = replace(tiny_model, precision="bf16")
    train_concept(tiny_model, settings(steps=2), tiny_real, tmp_path / "concept", 0)
    other = weights(tmp_path / "concept")
    assert {value.dtype for value in other.values()} == {torch.float32}
    assert 0 < max((plain[key] - other[key]).abs().max() for key in plain) < 0.1


class Casts(TorchDispatchMode):
    """Notes the shapes of what is cast to another floating-point type."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and args[0].is_floating_point():
            self.seen.append((tuple(args[0].shape), args[0].dtype, made.dtype))
        return made


def test_a_bf16_unet_runs_without_autocast(tmp_path, tiny_model, tiny_real):
    """Only the LoRA's matrices are cast, once each, and the sines of the time steps. Losses are
    those of fp32 and of autocast but for rounding.
    """
    losses = {}
    for precision in ("fp32", "bf16", "autocast"):
        model = replace(tiny_model, precision="fp32" if precision == "fp32" else "bf16")
        folder = Folder(str(tmp_path / "prior"))
        training = module.ConceptTraining(
            model, settings(batch_size=3), tiny_real, 0, Attempt(), folder
        )
        training.autocast = precision == "autocast"
        losses[precision] = [training.step(number).item() for number in range(3)]
        if precision != "bf16":
            continue
        unet, casts = training.pipe.unet, Casts()
        matrices = [value for name, value in unet.named_parameters() if "lora_" in name]
        assert {value.dtype for value in matrices} == {torch.float32}
        latents, text = torch.randn(3, 4, 8, 8).bfloat16(), torch.randn(3, 77, 32).bfloat16()
        timesteps = torch.tensor([1, 2, 3])
        with casts:
            unet(latents, timesteps, text)
        assert not torch.is_autocast_enabled("cpu")
        sines = ((3, 16), torch.float32, torch.bfloat16)
        expected = [(tuple(value.shape), value.dtype, torch.bfloat16) for value in matrices]
        assert sorted(casts.seen, key=str) == sorted([sines, *expected], key=str)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.01)
    assert losses["bf16"] == pytest.approx(losses["autocast"], rel=0.01)


def test_fp16_trains_through_the_gradient_scaler(
    tmp_path, tiny_model, tiny_real, plain, monkeypatch
):
    """On a CPU, where the options refuse fp16 because it is slow."""
    monkeypatch.setattr(module, "device_and_dtype", lambda _: ("cpu", torch.float16))
    scales: list[float] = []
    update = torch.amp.GradScaler.update
    monkeypatch.setattr(
        torch.amp.GradScaler, "update", lambda self: (update(self), scales.append(self.get_scale()))
    )
    # The scaler starts at 65,536, where some gradients may be infinite: it halves until they are
    # not, and skips those steps.
    train_concept(tiny_model, settings(steps=8), tiny_real, tmp_path / "concept", 0)
    other = weights(tmp_path / "concept")
    assert len(scales) == 8
    assert scales[-1] > 1
    assert all(value.isfinite().all() for value in other.values())
    assert (
        max(
            value.abs().max() for key, value in other.items() if "lora_B" in key or "lora.up" in key
        )
        > 0
    )


def test_options_that_cannot_be_used_are_refused_in_a_sentence(tmp_path, tiny_model, tiny_real):
    with pytest.raises(UserError, match=r"The prompt 'a \{thing\}' cannot be used"):
        train_concept(tiny_model, settings(prompts=("a {thing}",)), tiny_real, tmp_path / "x", 0)
    with pytest.raises(UserError, match="initializer gives an empty text"):
        train_concept(tiny_model, settings(initializer=" "), tiny_real, tmp_path / "x", 0)
