"""Commands that need no cluster."""

import json

import ray
import yaml

from diffmix.config import to_dict
from engine.forecast import splits
from jobs.cli import main


def test_doctor_finds_a_machine_that_can_run(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("ray 2.", "torch 2.", "CPU cores", "attention", "deepspeed imports"):
        assert word in text


def test_plan_counts_and_starts_nothing(tmp_path, small_config, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(small_config(tmp_path / "out", **{"placement.mixers": (3,), "placement.trainers": 2}))))
    assert main(["plan", "--config", str(recipe)]) == 0
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines() if line.count("│") == 3}
    assert rows["mixes planned"] == "40"
    assert rows["classes"] == "4"
    assert rows["GPUs asked for"] == "5 (3 mix, 2 train; overlapped)"
    assert "unknown" in rows["expected time"]
    assert not ray.is_initialized()


def test_splits_scale_mixing_and_not_training(small_config):
    summary = {"mixer": {"images_per_second": 2.0}, "seconds": {"train": 100.0}}
    found = {row["mixers"]: row for row in splits(summary, 1000, small_config("out"))}
    assert found[1]["generate s"] == 500.0
    assert found[8]["generate s"] == 62.5
    assert found[8]["wall s"] == 100.0
    assert found[1]["GPU-hours"] == 500 * 2 / 3600
    assert json.dumps(found[1])
