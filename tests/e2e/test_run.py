"""The whole job on a real cluster, judged by what its run folder holds.

Covers `engine/run.py`, `engine/phases.py`, `engine/training/identity.py`, `engine/session.py` and
`engine/worker_group/fit.py` too.
"""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from diffmix.classifier.model import build_model
from diffmix.config import to_dict
from diffmix.errors import UserError
from diffmix.format_version import without_version
from engine import phases
from engine.mixing.job import build_mixer
from engine.run import run, run_mixing, run_training
from engine.testing import GatheringMixer
from jobs.cli import main
from jobs.options import load

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_base, write_images, thirty_names):
    """The folder of a run through the command line on 30 classes with awkward names: personalized,
    overlapped, with a baseline.
    """
    folder = tmp_path_factory.mktemp("thirty")
    write_images(folder / "photos", thirty_names, 4)
    out = folder / "out"
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "personalize": {"steps": 4, "batch_size": 2, "lora_rank": 2},
                "mix": {
                    "count": 64,
                    "batch": 8,
                    "num_inference_steps": 4,
                    "synthetic_p": 0.3,
                    "strength": [0.5, 0.75],
                },
                "train": {
                    "model_name": "resnet10t",
                    "pretrained": False,
                    "resolution": 24,
                    "resize": 24,
                    "crop_padding": 2,
                    "epochs": 4,
                    "eval_every": 2,
                    "batch_size": 30,
                    "loader_workers": 1,
                    "baseline": True,
                },
            }
        )
    )
    arguments = [
        "--config",
        str(recipe),
        "--data.train",
        str(folder / "photos"),
        "--data.superclass",
        "bird",
        "--model.base",
        str(tiny_base),
    ]
    assert main(["run", *arguments, "--data.val_fraction", "0.25", "--out", str(out)]) == 0
    return out


def test_summary(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["plan"] == {"planned": 64, "stored": 64, "rejected": 0, "set_aside": 0}
    assert 0 <= summary["accuracy"]["top1"] <= summary["accuracy"]["top5"] <= 1
    for name in ("personalize", "generate", "train", "wall"):
        assert summary["seconds"][name] > 0
    for figure in ("images_per_second", "busy_fraction"):
        assert summary["mixer"][figure] > 0
    assert 0 <= summary["overlap"]["concurrent_fraction"] <= 1
    assert 0 < summary["trainer"]["synthetic_share"] < 0.6  # p is 0.3
    assert summary["versions"]["ray"]


def test_store_holds_the_whole_plan_once(finished):
    tables = [pq.read_table(file) for file in (finished / "mixes").glob("part-*.parquet")]
    ids = np.concatenate([table["mix_id"].to_numpy() for table in tables])
    assert sorted(ids.tolist()) == list(range(64))
    assert {name for table in tables for name in table["source_id"].to_pylist()} <= set(
        image_ids(finished)
    )


def image_ids(out: Path) -> list[str]:
    from diffmix.datasets.real import RealSet

    return RealSet.open(str(out / "data" / "train.arrow")).image_ids


def test_classifier_loads_into_timm(finished, thirty_names):
    description = json.loads((finished / "classifier" / "model.json").read_text())
    assert sorted(description["class_names"]) == sorted(thirty_names)
    model = timm.create_model("resnet10t", num_classes=30)
    model.load_state_dict(load_file(finished / "classifier" / "model.safetensors"))


def test_concept_loads_into_stock_diffusers(finished, tiny_base):
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_base)
    pipe.load_lora_weights(finished / "concept")
    embeds = load_file(finished / "concept" / "learned_embeds.safetensors")
    assert len(embeds) == 30
    pipe.load_textual_inversion([{token: rows} for token, rows in embeds.items()])
    assert pipe.get_active_adapters()


def test_configuration_is_complete_and_runs_again_without_making_anything(finished, capsys):
    config = load(str(finished / "config.yaml"))
    stored = yaml.safe_load((finished / "config.yaml").read_text())
    assert without_version(stored, "config.yaml") == to_dict(config)
    before = {
        file: file.stat().st_mtime_ns
        for file in [*(finished / "mixes").iterdir(), finished / "classifier" / "model.safetensors"]
    }
    assert main(["run", "--config", str(finished / "config.yaml")]) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    out = capsys.readouterr().out
    assert "64 of 64" in out
    assert f"report: {finished}/report.html\n" in out


def test_metrics_are_lines_of_json(finished):
    events = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    epochs = [event["epoch"] for event in events if event["event"] == "train"]
    assert sorted(epochs) == [0, 1, 2, 3]
    assert sum(event["mixes"] for event in events if event["event"] == "mix") == 64


def test_another_plan_is_refused_before_anything_is_made(finished, capsys):
    assert main(["run", "--config", str(finished / "config.yaml"), "--mix.strength", "0.75"]) == 2
    assert "plan.strength" in capsys.readouterr().err


def test_another_personalization_is_refused(finished, capsys):
    assert main(["run", "--config", str(finished / "config.yaml"), "--personalize.steps", "5"]) == 2
    assert "made with other settings (steps was 4 and is 5 now)" in capsys.readouterr().err


def test_evaluate_gives_the_runs_own_accuracy(finished, capsys):
    assert main(["evaluate", "--config", str(finished / "config.yaml")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert math.isclose(
        found["top1"], json.loads((finished / "summary.json").read_text())["accuracy"]["top1"]
    )


def test_staged_runs_are_identical(tmp_path, staged, small_config, parts):
    again = tmp_path / "again"
    run(small_config(again, **{"run.mode": "staged"}))
    one, other = (load_file(out / "classifier" / "model.safetensors") for out in (staged, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert parts(staged) == parts(again)


def test_one_mixer_and_three_mixers_make_the_same_bytes(
    tmp_path, staged, small_config, parts, events, monkeypatch
):
    def mix_job(*arguments):
        build = GatheringMixer(str(tmp_path / "working"), 3, build_mixer)
        return replace(make_job(*arguments), build=build)

    make_job = phases.mix_job
    monkeypatch.setattr(phases, "mix_job", mix_job)
    run_mixing(small_config(tmp_path / "3", **{"placement.mixers": (3,)}))
    one, three = parts(staged), parts(tmp_path / "3")
    assert len(one) >= 10  # 40 mixes in chunks of at most 4
    assert one == three
    assert len({event["actor"] for event in events(staged, "mix")}) == 1
    assert len({event["actor"] for event in events(tmp_path / "3", "mix")}) == 3


def test_two_train_workers_with_zero_2(tmp_path, staged, small_config, parts):
    """Overlapped, on a backbone that is frozen for the first of two epochs."""
    changes = {
        "placement.trainers": 2,
        "train.zero_stage": 2,
        "train.freeze_epochs": 1,
        "train.epochs": 2,
    }
    config = small_config(tmp_path / "out", **changes)
    summary = run(config)
    assert summary["plan"]["stored"] == 40
    assert parts(tmp_path / "out") == parts(staged), "how mixes are made changes none of them"
    weights = load_file(tmp_path / "out" / "classifier" / "model.safetensors")
    timm.create_model("resnet10t", num_classes=4).load_state_dict(weights)
    torch.manual_seed(config.run.seed)
    start = build_model(config.train, 4).state_dict()
    moved = {name for name, value in weights.items() if not torch.equal(value, start[name])}
    assert {"conv1.0.weight", "layer4.0.conv1.weight", "bn1.running_mean", "fc.weight"} <= moved


def test_too_few_gpus_is_one_sentence(tmp_path, small_config):
    with pytest.raises(
        UserError,
        match=r"needs 6 GPUs \(4 for 4 mixers, 2 for 2 train workers\) but the cluster has 4",
    ):
        run(small_config(tmp_path / "out", **{"placement.mixers": (4,), "placement.trainers": 2}))


def test_too_many_personalizers_is_one_sentence(tmp_path, small_config):
    with pytest.raises(
        UserError, match=r"--placement.personalizers 9 needs 9 GPUs but the cluster has 4"
    ):
        run(
            small_config(
                tmp_path / "out", **{"placement.personalizers": 9, "mix.strategy": "diff-mix"}
            )
        )


def test_what_was_trained_on_a_part_of_the_mixes_is_trained_again_on_all(
    copy_of_staged, small_config
):
    """Each phase alone, which asks for its own GPUs only: the cluster has 4."""
    out = copy_of_staged
    finished = out / "classifier" / "finished"
    whole = finished.read_bytes()
    many = {"run.mode": "staged", "placement.personalizers": 9}  # real-mix personalizes nothing
    training = small_config(out, **many, **{"placement.mixers": (9,)})
    (lost := out / "mixes" / "part-00000001.parquet").unlink()
    run_training(training)
    assert finished.read_bytes() != whole
    run_mixing(small_config(out, **many, **{"placement.trainers": 8}))
    assert lost.exists()
    for _ in range(2):
        run_training(training)
        assert finished.read_bytes() == whole


def test_a_larger_plan_makes_only_what_is_new(cluster, copy_of_staged, small_config, parts):
    """Two chunks of the smaller plan are short; they stay as they are."""
    before = parts(copy_of_staged)
    config = small_config(copy_of_staged, **{"run.mode": "staged", "mix.count": 70})
    assert run(config)["plan"] == {"planned": 70, "stored": 70, "rejected": 0, "set_aside": 0}
    after = parts(copy_of_staged)
    assert {name: after[name] for name in before} == before
    ids = [mix for file in after.values() for mix in pq.read_table(io.BytesIO(file))["mix_id"]]
    assert sorted(mix.as_py() for mix in ids) == list(range(70))
    assert run(config)["plan"]["stored"] == 70
    assert parts(copy_of_staged) == after


@pytest.mark.parametrize("mode", ["overlapped", "staged"])
def test_a_limit_leaves_mixes_out_and_a_larger_one_goes_on(cluster, tmp_path, small_config, mode):
    """All of the limit is kept for training, so that no mix is made."""
    changes = {"run.mode": mode, "mix.count": 24, "limits.hours": 9.0}
    limited = small_config(tmp_path, **changes, **{"limits.for_training": 1.0})
    summary = run(limited)
    none = {"planned": 24, "stored": 0, "rejected": 0, "set_aside": 0}
    assert summary["plan"] == {**none, "cut": 24}
    assert "top1" in summary["accuracy"]
    assert 0 < summary["spent"]["hours"] < 1
    weights = tmp_path / "classifier" / "model.safetensors"
    trained = weights.read_bytes()
    again = run(limited)
    assert again["plan"] == summary["plan"]
    assert weights.read_bytes() == trained, "nothing is trained again while the limit holds"
    assert again["spent"]["hours"] > summary["spent"]["hours"]
    whole = run(small_config(tmp_path, **changes))
    assert whole["plan"] == {**none, "stored": 24}
    assert weights.read_bytes() != trained
    trained = weights.read_bytes()
    assert run(small_config(tmp_path, **changes))["plan"] == whole["plan"]
    assert weights.read_bytes() == trained
