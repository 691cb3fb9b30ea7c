"""The benchmarks' own arithmetic, and each of them on the smallest case."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import cub_cost, mixer_throughput, record, training_input
from diffmix.config import MixConfig


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


def test_ways_take_turns_after_a_warm_up():
    calls = []
    seconds = record.interleaved({"a": lambda repeat: calls.append(("a", repeat)), "b": lambda repeat: calls.append(("b", repeat))}, 2)
    assert calls == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [len(taken) for taken in seconds.values()] == [2, 2]
    assert record.median_ratio([1.0, 6.0, 10.0], [1.0, 2.0, 2.0]) == 3.0


def test_mixer_and_usual_way_make_the_same_images(tiny_model):
    mix = MixConfig(strategy="real-mix", num_inference_steps=4, batch=2)
    figures = mixer_throughput.measure(tiny_model, mix, mixes=3, alone=1, repeats=1)
    assert figures["ratio_to_one_at_a_time"] == pytest.approx(figures["images_per_second"] / figures["images_per_second_one_at_a_time"])
    assert figures["batch"] == 2
    assert mixer_throughput.agreement(tiny_model, mix, 3) > 40


def test_sources_repeat_within_a_run_and_not_between_repeats():
    (specs, files), (others, _) = mixer_throughput.tasks(20, 32, 0), mixer_throughput.tasks(20, 32, 1)
    assert len({spec.source_id for spec in specs}) == 4
    assert not {spec.source_id for spec in specs} & {spec.source_id for spec in others}
    assert all((spec.source_id == specs[0].source_id) == (file == files[0]) for spec, file in zip(specs, files, strict=True))


def test_psnr_by_hand():
    black = Image.new("RGB", (8, 8))
    grey = Image.fromarray(np.full((8, 8, 3), 51, dtype=np.uint8))  # a fifth of white: 20 log10(5) = 13.98 dB
    assert mixer_throughput.psnr(black, grey) == pytest.approx(13.979, abs=1e-3)
    assert mixer_throughput.psnr(black, black) == pytest.approx(100.0)


def test_training_input_counts_what_it_says(tmp_path):
    figures = training_input.measure(tmp_path, images=40, side=16, workers=0, batch_size=8, repeats=1, largest=1000)
    assert figures["pool_mixes"] == 1000
    assert figures["images_per_second"] / figures["images_per_second_imagefolder"] == pytest.approx(figures["ratio_to_imagefolder"])
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
    done = subprocess.run(run, env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    assert "no GPU" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["figures"] == {}
