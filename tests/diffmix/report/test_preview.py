"""`diffmix preview`: the content of the sheet, with a tiny pipeline of random weights."""

import numpy as np
import pytest
from PIL import Image

from diffmix.config import Config, DataConfig, GateConfig, MixConfig, replace
from diffmix.errors import UserError
from diffmix.gates import configured
from diffmix.generator.concept import Concept
from diffmix.generator.mixer import Mixer
from diffmix.report.preview import DRAWS, preview, preview_rows, preview_strengths, score_rows


def mixer_of(model, real, strategy: str, **options) -> Mixer:
    return Mixer(
        model,
        MixConfig(
            **{"strategy": strategy, "num_inference_steps": 4, "strength": (0.5, 0.75), **options}
        ),
        real.class_names,
        real.superclass,
    )


@pytest.fixture
def folder(tmp_path):
    """Three classes of four small images."""
    rng = np.random.default_rng(0)
    for name in ("fox", "wolf", "狐"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
                tmp_path / "images" / name / f"{i}.png"
            )
    return tmp_path / "images"


@pytest.fixture
def config(tmp_path, folder, tiny_model) -> Config:
    return Config(
        out=str(tmp_path / "out"),
        model=tiny_model,
        data=DataConfig(train=str(folder)),
        mix=MixConfig(num_inference_steps=4),
    )


def test_each_row_is_one_source_and_target_with_strength_rising(tiny_model, tiny_real):
    options = {"strength": (0.9, 0.3), "num_inference_steps": 10, "batch": 4}
    mixer = mixer_of(tiny_model, tiny_real, "real-mix", **options)
    rows = preview_rows(mixer, tiny_real, seed=0)
    assert len(rows) == 9
    assert len({row.source_class for row in rows}) == 3
    for row in rows:
        assert [round(mix.strength, 3) for mix in row.mixes] == [0.3, 0.9]
        (target,) = {mix.target for mix in row.mixes}
        assert target != row.source_class
    near = np.mean([_distance(row.source, row.mixes[0].image) for row in rows])
    far = np.mean([_distance(row.source, row.mixes[1].image) for row in rows])
    assert near < far


def _distance(one: Image.Image, other: Image.Image) -> float:
    other = other.resize(one.size)
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def test_the_batch_changes_nothing_and_the_seed_everything(tiny_model, tiny_real):
    whole_batch = mixer_of(tiny_model, tiny_real, "real-mix", batch=16)
    small_batch = mixer_of(tiny_model, tiny_real, "real-mix", batch=2)

    def shown(mixer: Mixer, seed: int) -> list[np.ndarray]:
        rows = preview_rows(mixer, tiny_real, seed)
        mixes = [mix for row in rows if row.source.size == (32, 32) for mix in row.mixes]
        return [np.asarray(mix.image, dtype=float) for mix in mixes]

    whole, parts, other = shown(whole_batch, 0), shown(small_batch, 0), shown(whole_batch, 1)
    assert max(np.abs(a - b).max() for a, b in zip(whole, parts, strict=True)) <= 1
    assert any(np.abs(a - b).max() > 1 for a, b in zip(whole, other, strict=False))


def test_strategies_within_a_class_and_from_noise(tiny_model, tiny_real):
    within = preview_rows(mixer_of(tiny_model, tiny_real, "real-aug"), tiny_real, seed=0)
    assert {row.source_class for row in within} == set(tiny_real.class_names)
    assert all(mix.target == row.source_class for row in within for mix in row.mixes)
    noise = preview_rows(mixer_of(tiny_model, tiny_real, "real-gen"), tiny_real, seed=0)
    assert len(noise) == len(tiny_real.class_names)
    for row in noise:
        assert row.source is None
        assert len({mix.image.tobytes() for mix in row.mixes}) == DRAWS, "draws differ"


def test_strengths_are_the_configured_ones_or_a_range():
    def rounded(**options) -> list[float]:
        return [round(strength, 3) for strength in preview_strengths(MixConfig(**options))]

    assert rounded(strength=(0.7,)) == [0.3, 0.5, 0.7, 0.9]
    assert rounded(strength=(0.8, 0.4, 0.8)) == [0.4, 0.8]
    assert rounded(strength=(0.8, 0.4), strength_beta=(5, 2)) == [0.3, 0.5, 0.7, 0.9]
    few_steps = rounded(strength=(0.7,), num_inference_steps=2)
    assert few_steps == [0.5, 0.7, 0.9], "0.3 would run no step"


def empty_concept(class_names: list[str], **fields) -> Concept:
    """A concept without tokens and without LoRA."""
    defaults = {"superclass": "animal", "tokens": {}, "vectors_per_token": 1, "lora_rank": 0}
    defaults |= {"base": "base", "revision": None, "base_fingerprint": ""}
    defaults |= {"steps": 0, "seed": 0, "data_fingerprint": ""}
    return Concept(class_names=class_names, **{**defaults, **fields})


def test_preview_writes_the_sheet_with_a_given_concept_and_the_run_folders_own(
    config, tmp_path, tiny_base
):
    from diffmix.generator.base_model import base_fingerprint

    concept = empty_concept(
        ["fox", "wolf", "狐"], base=str(tiny_base), base_fingerprint=base_fingerprint(config.model)
    )
    config = replace(config, **{"mix.strategy": "diff-mix", "mix.strength": (0.4, 0.8)})
    concept.save(tmp_path / "concept", {}, {})
    given = replace(config, **{"personalize.concept": str(tmp_path / "concept")})
    shown = preview(given)
    assert shown["path"] == f"{tmp_path}/out/preview.png"
    assert shown["strengths"] == [0.4, 0.8]
    assert set(shown["sources"]) == set(shown["targets"]) == {"fox", "wolf", "狐"}
    assert shown["images"] == 3 * 2 * 2
    first = (tmp_path / "out" / "preview.png").read_bytes()
    assert Image.open(shown["path"]).width > 3 * 128
    concept.save(tmp_path / "out" / "concept", {}, {})
    preview(config)
    assert (tmp_path / "out" / "preview.png").read_bytes() == first


def test_with_a_gate_scores_stand_below_the_images_and_in_the_summary(config, tiny_clip, capsys):
    from jobs.commands import preview as command

    config = replace(config, **{"mix.strategy": "real-mix", "mix.strength": (0.5, 0.75)})
    plain = preview(config)
    before = Image.open(plain["path"]).copy()
    assert plain["scores"] == {}
    config = replace(config, **{"gate.clip": str(tiny_clip)})
    shown = preview(config)
    after = Image.open(shown["path"])
    assert after.height > before.height, "one more line below each image"
    assert list(shown["scores"]) == [0.0, 0.5, 0.75]
    assert all(0 < score < 1 for score in shown["scores"].values())
    command(config)
    words = capsys.readouterr().out
    real, half = shown["scores"][0.0], shown["scores"][0.5]
    assert f"mean score of the gate: {real:.2f} of the real images, {half:.2f} at 0.5" in words


def test_scores_are_those_of_the_images_shown(tiny_model, tiny_real, tiny_clip):
    rows = preview_rows(mixer_of(tiny_model, tiny_real, "real-mix"), tiny_real, seed=0)
    scorer = configured(GateConfig(clip=str(tiny_clip)), "animal", []).load("cpu")
    for row in score_rows(rows, scorer, tiny_real.class_names):
        for mix in row.mixes:
            assert mix.score == pytest.approx(float(scorer.score([mix.image], [])[0]), abs=1e-5)
        assert row.source_score == pytest.approx(float(scorer.score([row.source], [])[0]), abs=1e-5)


def test_what_is_missing_is_said_before_images_are_read(config, tmp_path):
    with pytest.raises(UserError, match=r"no concept in .*--personalize\.concept"):
        preview(config)
    assert not (tmp_path / "out" / "data").exists()
    with pytest.raises(UserError, match="--out"):
        preview(replace(config, out=""))


def test_a_concept_of_other_classes_is_refused(config, tmp_path):
    empty_concept(["cat"]).save(tmp_path / "concept", {}, {})
    config = replace(config, **{"personalize.concept": str(tmp_path / "concept")})
    with pytest.raises(UserError, match="other classes"):
        preview(config)
