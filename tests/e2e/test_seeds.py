"""Several seeds in one command."""

import json
import shutil
import statistics

import pytest
import yaml

from diffmix.config import to_dict
from engine.seeds import run_seeds
from jobs.cli import main

pytestmark = pytest.mark.usefixtures("cluster")


def test_each_seed_is_a_run_of_its_own_and_a_second_call_makes_nothing(
    tmp_path, staged, small_config, capsys
):
    """The first seed's run is there already."""
    out = tmp_path / "out"
    shutil.copytree(staged, out / "seed-3")
    recipe = tmp_path / "recipe.yaml"
    changes = {"run.mode": "staged", "run.seeds": (3, 5)}
    recipe.write_text(yaml.safe_dump(to_dict(small_config(out, **changes))))
    first = {file: file.stat().st_mtime_ns for file in (out / "seed-3" / "mixes").glob("part-*")}
    assert main(["run", "--config", str(recipe)]) == 0
    assert "2 seeds (3, 5)" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in first} == first
    runs = [json.loads((out / f"seed-{seed}" / "summary.json").read_text()) for seed in (3, 5)]
    shares = [one["accuracy"]["top1"] for one in runs]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["accuracy"]["top1"] == pytest.approx(statistics.mean(shares))
    assert summary["std"]["accuracy"]["top1"] == pytest.approx(statistics.stdev(shares))
    assert summary["plan"]["stored"] == 80
    assert "±" in (out / "report.html").read_text()
    plans = [
        json.loads((out / f"seed-{seed}" / "mixes" / "plan.json").read_text()) for seed in (3, 5)
    ]
    assert plans[0]["data"] == plans[1]["data"], "all seeds have the same images"
    assert plans[0]["plan"] != plans[1]["plan"], "and plans of their own"

    kept = [*out.glob("seed-*/mixes/part-*"), *out.glob("seed-*/classifier/model.safetensors")]
    before = {file: file.stat().st_mtime_ns for file in kept}
    assert main(["run", "--config", str(out / "config.yaml")]) == 0
    assert {file: file.stat().st_mtime_ns for file in kept} == before
    assert len(before) >= 22


def test_seeds_of_the_classifier_alone_share_a_store(copy_of_staged, small_config, events):
    """The store is there already; each seed's classifier is in a folder of its own."""
    out = copy_of_staged
    stored = {file: file.stat().st_mtime_ns for file in (out / "mixes").iterdir()}
    changes = {
        "run.seeds": (5, 6),
        "run.seeds_vary": "classifier",
        "train.epochs": 2,
    }
    config = small_config(out, **changes)
    trained = len(events(out, "train"))
    summary = run_seeds(config)
    assert {file: file.stat().st_mtime_ns for file in (out / "mixes").iterdir()} == stored
    assert len(events(out, "train")) == trained + 4
    results = [
        json.loads((out / f"seed-{seed}" / "classifier" / "result.json").read_text())
        for seed in (5, 6)
    ]
    shares = [one["top1"] for one in results]
    assert summary["accuracy"]["top1"] == pytest.approx(statistics.mean(shares))
    assert summary["std"]["accuracy"]["top1"] == pytest.approx(statistics.stdev(shares))
    assert summary["seeds"] == {"5": {"accuracy": shares[0]}, "6": {"accuracy": shares[1]}}
    weights = [
        (out / f"seed-{seed}" / "classifier" / "model.safetensors").read_bytes() for seed in (5, 6)
    ]
    assert weights[0] != weights[1]
    assert summary["plan"]["stored"] == 40, "one set of mixes"
    assert json.loads((out / "summary.json").read_text())["seeds"] == summary["seeds"]
    assert "±" in (out / "report.html").read_text()
    assert run_seeds(config)["accuracy"] == summary["accuracy"]
    assert len(events(out, "train")) == trained + 4, "a second call trains nothing"
