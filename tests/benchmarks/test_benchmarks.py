"""The benchmarks' own arithmetic, and each of them on the smallest case."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import (
    cub_cost,
    leak,
    mixer_throughput,
    profiles,
    record,
    strategies,
    training_input,
)
from diffmix.config import MixConfig, replace
from jobs.options import load


def test_record_has_the_fixed_form_and_no_host_name(tmp_path):
    import platform

    record.write(str(tmp_path / "out.json"), {"ratio": 2.0})
    text = (tmp_path / "out.json").read_text()
    found = json.loads(text)
    assert set(found) == {"machine", "versions", "figures"}
    assert found["figures"] == {"ratio": 2.0}
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["torch"]
    assert platform.node() not in text


def test_what_a_gpu_is_measured_with_needs_no_ray():
    names = ", ".join(
        f"benchmarks.{name}"
        for name in ("mixer_throughput", "personalize_throughput", "cub_cost", "training_input")
    )
    code = f"import sys; sys.modules.update(ray=None, deepspeed=None); import {names}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ways_take_turns_after_a_warm_up():
    calls = []
    seconds = record.interleaved(
        {
            "a": lambda repeat: calls.append(("a", repeat)),
            "b": lambda repeat: calls.append(("b", repeat)),
        },
        2,
    )
    assert calls == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [len(taken) for taken in seconds.values()] == [2, 2]
    assert record.median_ratio([1.0, 6.0, 10.0], [1.0, 2.0, 2.0]) == 3.0


def test_mixer_and_usual_way_make_the_same_images(tiny_model):
    mix = MixConfig(strategy="real-mix", num_inference_steps=4, batch=2)
    figures = mixer_throughput.measure(tiny_model, mix, mixes=3, alone=1, repeats=1)
    assert figures["ratio_to_one_at_a_time"] == pytest.approx(
        figures["images_per_second"] / figures["images_per_second_one_at_a_time"]
    )
    assert figures["batch"] == 2
    assert mixer_throughput.agreement(tiny_model, mix, 3) > 40


def test_sources_repeat_within_a_run_and_not_between_repeats():
    (specs, files), (others, _) = (
        mixer_throughput.tasks(20, 32, 0),
        mixer_throughput.tasks(20, 32, 1),
    )
    assert len({spec.source_id for spec in specs}) == 4
    assert not {spec.source_id for spec in specs} & {spec.source_id for spec in others}
    assert all(
        (spec.source_id == specs[0].source_id) == (file == files[0])
        for spec, file in zip(specs, files, strict=True)
    )


def test_psnr_by_hand():
    black = Image.new("RGB", (8, 8))
    gray = Image.fromarray(
        np.full((8, 8, 3), 51, dtype=np.uint8)
    )  # a fifth of white: 20 log10(5) = 13.98 dB
    assert mixer_throughput.psnr(black, gray) == pytest.approx(13.979, abs=1e-3)
    assert mixer_throughput.psnr(black, black) == pytest.approx(100.0)


def test_training_input_counts_what_it_says(tmp_path):
    figures = training_input.measure(
        tmp_path, images=40, side=16, workers=0, batch_size=8, repeats=1, largest=1000
    )
    assert figures["pool_mixes"] == 1000
    assert figures["images_per_second"] / figures["images_per_second_imagefolder"] == pytest.approx(
        figures["ratio_to_imagefolder"]
    )
    assert abs(figures["rss_growth_mb"]) < 50


def test_gpu_hours_by_hand():
    figures = cub_cost.gpu_hours(personalize=100.0, mix=10.0, train=1000.0)
    assert figures["personalize_gpu_hours"] == pytest.approx(2800 / 3600)
    assert figures["synthesize_gpu_hours"] == pytest.approx(3000 / 3600)
    assert figures["train_gpu_hours"] == pytest.approx(719.28 / 3600)
    assert figures["total_gpu_hours"] == pytest.approx(6519.28 / 3600)


def test_rates_of_the_phases(tiny_model):
    """The code that a GPU would run, on a model of no size."""
    assert cub_cost.personalize_rate(tiny_model, batch_size=2, steps=4) > 0
    assert cub_cost.mix_rate(tiny_model, batch=2, chunks=1) > 0
    assert cub_cost.train_rate(32, 2, 3, "cpu") > 0


def test_without_a_gpu_there_are_no_figures(tmp_path):
    run = [sys.executable, "-m", "benchmarks.cub_cost", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(
        run,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no GPU" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["figures"] == {}


def test_interval_by_hand():
    # mean 3, standard deviation 1.5811, Student's t for 4 degrees of freedom 2.7764: 2.7764 *
    # 1.5811 / sqrt(5)
    assert strategies.interval([1, 2, 3, 4, 5]) == pytest.approx((3.0, 1.96324), abs=1e-4)
    assert np.isnan(strategies.interval([1.0])[1])


def test_arms_differ_in_what_they_say_and_in_nothing_else():
    recipe = load(str(strategies.RECIPE))
    arms = {arm: strategies.config(arm, 7, "out", "concept", recipe) for arm in strategies.ARMS}
    for arm, config in arms.items():
        assert (config.run.seed, config.data.seed, config.run.mode, config.out) == (
            7,
            7,
            "staged",
            f"out/seed-7/{arm}",
        )
        assert config.train.epochs == recipe.train.epochs
        assert (config.train.mixup_alpha, config.train.cutmix_alpha) == (
            (1.0, 0.0) if arm == "mixup" else (0.0, float(arm == "cutmix"))
        )
    assert {
        arm: config.mix.strategy
        for arm, config in arms.items()
        if "mix.strategy" in strategies.ARMS[arm]
    } == {
        "real_mix": "real-mix",
        "diff_aug": "diff-aug",
        "diff_mix": "diff-mix",
    }
    assert recipe.train.mixup_alpha == 0, "the recipe itself is left alone"


def test_arms_are_compared_in_pairs():
    def summary(top1, **more):
        return {"accuracy": {"top1": top1, "worst_group": top1 / 2}, **more}

    found = {
        "no_mixes": [summary(0.5), summary(0.7)],
        "diff_aug": [summary(0.55), summary(0.73)],
        "diff_mix": [
            summary(0.6, mixer={"oracle_share": 0.7}),
            summary(0.8, mixer={"oracle_share": 0.9}),
        ],
    }
    figures = strategies.figures_of(found)
    assert figures["no_mixes_top1"] == pytest.approx(60)
    assert (figures["diff_mix_gain"], figures["diff_mix_gain_ci"]) == pytest.approx(
        (10, 0), abs=1e-9
    )
    assert figures["diff_mix_over_diff_aug"] == pytest.approx(6)
    assert figures["diff_mix_oracle_share"] == pytest.approx(80)
    assert figures["no_mixes_worst_group"] == pytest.approx(30)


def test_leaky_and_honest_runs_differ_in_the_concepts_images_alone():
    recipe = load(str(leak.RECIPE))
    honest, leaky = (leak.config(arm, 7, "out", recipe) for arm in ("honest", "leaky"))
    assert leaky.data.seed == honest.data.seed == leaky.run.seed == 7
    assert (honest.personalize.data_seed, leaky.personalize.data_seed) == (None, 1007)
    same = {"out": "", "personalize.data_seed": None, "train.baseline": False}
    assert replace(honest, **same) == replace(leaky, **same)
    assert honest.train.baseline, "it has the classifier without mixes"


def test_leaks_are_compared_in_pairs():
    top1 = {"no_mixes": [60.0, 50.0], "honest": [64.0, 58.0], "leaky": [65.0, 60.0]}
    figures = leak.figures_of(top1)
    assert (figures["leak"], figures["honest_gain"], figures["leaky_gain"]) == (1.5, 6.0, 7.5)
    # Of two values the deviation is their distance / sqrt(2), Student's t is 12.706.
    assert figures["leak_ci"] == pytest.approx(12.706 * 0.5, abs=1e-3)


def test_profiles_change_what_they_say():
    recipe = load(str(profiles.RECIPE))
    chosen = profiles.profiles("tiny", "lora")
    assert replace(recipe, **chosen["exact"]) == recipe
    assert replace(recipe, **chosen["tiny_vae"]).model.tiny_vae == "tiny"
    lcm = replace(recipe, **chosen["lcm_8_steps"]).mix
    assert (lcm.sampler, lcm.sampler_lora, lcm.num_inference_steps) == ("lcm", "lora", 8)
    assert profiles.PROFILES["tiny_vae"]["model.tiny_vae"] == "", "the table is left alone"
