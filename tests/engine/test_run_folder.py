"""Format versions of a run folder: one of version 1 is kept in `tests/data`, and what every command
makes of it is what the run's own version made of it. A newer file is refused by name.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from timm.models import _registry

from diffmix.config import replace
from diffmix.datasets.prepare import prepare
from diffmix.format_version import FORMAT_VERSION, KEY
from diffmix.storage import Folder
from engine.run_folder import concept_images, leak
from jobs.cli import main
from jobs.options import load

KEPT = Path(__file__).parents[1] / "data" / "run_folder_v1"


class TinyClassifier(torch.nn.Module):
    """The kept run's classifier, small enough for a repository."""

    def __init__(self, num_classes: int, in_chans: int = 3, **_):
        super().__init__()
        mean = std = (0.5,) * 3
        self.pretrained_cfg = self.default_cfg = {
            "input_size": (3, 16, 16),
            "mean": mean,
            "std": std,
            "classifier": "fc",
        }
        self.num_classes, self.num_features = num_classes, 8
        self.conv = torch.nn.Conv2d(in_chans, 8, 3, stride=2)
        self.norm = torch.nn.BatchNorm2d(8)
        self.fc = torch.nn.Linear(8, num_classes)

    def forward(self, images):
        return self.fc(torch.relu(self.norm(self.conv(images))).mean((2, 3)))


@pytest.fixture(autouse=True)
def old(tmp_path, monkeypatch) -> Path:
    """A copy of the kept run folder, with its images and its configuration's relative paths."""

    def tiny_classifier(pretrained=False, pretrained_cfg=None, **options):
        wanted = {name: options[name] for name in ("num_classes", "in_chans") if name in options}
        return TinyClassifier(**wanted)

    monkeypatch.setitem(_registry._model_entrypoints, "tiny_classifier", tiny_classifier)
    shutil.copytree(KEPT, tmp_path / "kept")
    monkeypatch.chdir(tmp_path / "kept")
    return tmp_path / "kept" / "out"


def kept(name: str) -> dict:
    return json.loads((KEPT / "out" / name).read_text())


def test_no_kept_file_has_a_version(old):
    files = [*old.rglob("*.json"), *old.rglob("*.jsonl"), *old.rglob("*.yaml")]
    assert len(files) > 8
    assert not [file for file in files if KEY in file.read_text()]


@pytest.mark.usefixtures("cluster")
def test_a_run_resumes_it_and_makes_nothing_again(old):
    def made() -> dict:
        files = [*(old / "mixes").glob("*.parquet"), *(old / "concept").iterdir()]
        files.append(old / "classifier" / "model.safetensors")
        return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    before = made()
    assert main(["run", "--config", "out/config.yaml"]) == 0
    assert made() == before
    summary, was = json.loads((old / "summary.json").read_text()), kept("summary.json")
    assert summary[KEY] == FORMAT_VERSION
    assert summary["plan"] == {**was["plan"], "set_aside": 0}
    assert summary["accuracy"] == was["accuracy"]
    assert summary["seconds"]["train"] == pytest.approx(was["seconds"]["train"])
    assert KEY not in json.loads((old / "mixes" / "plan.json").read_text()), "it was not touched"
    events = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    starts = [event for event in events if event["event"] == "start"]
    assert [event.get(KEY) for event in starts] == [None, FORMAT_VERSION]
    again = yaml.safe_load((old / "config.yaml").read_text())
    assert again.pop(KEY) == FORMAT_VERSION
    assert load("out/config.yaml").out == again["out"] == str(old.resolve())


def test_evaluate(capsys):
    assert main(["evaluate", "--config", "out/config.yaml"]) == 0
    found, was = json.loads(capsys.readouterr().out), kept("classifier/result.json")
    assert found["top1"] == was["top1"]
    assert found["calibration"]["ece"] == pytest.approx(was["calibration"]["ece"], abs=1e-4)


def test_report(old, capsys):
    assert main(["report", "--config", "out/config.yaml"]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert "6 of 6" in (old / "report.html").read_text()


@pytest.mark.parametrize("format", ["reference", "reference-concept"])
def test_export(tmp_path, format):
    arguments = ["--export.format", format, "--export.to", str(tmp_path / "to")]
    assert main(["export", "--config", "out/config.yaml", *arguments]) == 0
    files = list((tmp_path / "to").rglob("*.*"))
    assert len(files) == (7 if format == "reference" else 2)  # six images and meta.csv


def test_compose(tmp_path):
    new = str(tmp_path / "new")
    arguments = ["--compose.stores", "out", "--out", new]
    assert main(["compose", "--config", "out/config.yaml", *arguments]) == 0
    plan = json.loads((tmp_path / "new" / "mixes" / "plan.json").read_text())
    assert (plan[KEY], plan["planned"]) == (FORMAT_VERSION, 6)


def test_plan(capsys):
    assert main(["plan", "--config", "out/config.yaml"]) == 0
    assert "2 (2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("data/data.json", "run"),
        ("concept/concept.json", "run"),
        ("mixes/plan.json", "run"),
        ("mixes/gate.json", "run"),
        ("classifier/model.json", "evaluate"),
        ("summary.json", "report"),
        ("metrics.jsonl", "report"),
        ("config.yaml", "run"),
    ],
)
def test_a_newer_file_is_refused_by_name(old, capsys, file, command):
    newer = {KEY: FORMAT_VERSION + 1}
    if file == "metrics.jsonl":
        (old / file).write_text(json.dumps({"event": "start", "time": 0.0, **newer}) + "\n")
    elif file == "config.yaml":
        (old / file).write_text(yaml.safe_dump({**newer, "of tomorrow": 1}))
    else:
        values = kept(file) if (KEPT / "out" / file).exists() else {}
        (old / file).write_text(json.dumps({**values, **newer, "of tomorrow": 1}))
    assert main([command, "--config", "out/config.yaml", "--out", "out"]) == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{file} has format version {FORMAT_VERSION + 1}" in sentence


def test_a_concept_of_another_draw(tmp_path, small_config):
    """Its images are kept beside the classifier's, and what they give away is counted."""
    changes = {"mix.strategy": "diff-mix", "data.shots": 2, "personalize.data_seed": 9}
    config, out = small_config(tmp_path / "out", **changes), Folder(str(tmp_path / "out"))
    data = prepare(config.data, out.uri)
    images = concept_images(config, out, data.train)
    assert images.path.startswith(f"{out.uri}/concept_data/")
    other = prepare(replace(config.data, seed=9), str(tmp_path / "other"))
    assert images.fingerprint == other.train.fingerprint != data.train.fingerprint
    unseen = set(images.image_ids) - set(data.train.image_ids)
    tested = unseen & set(data.test.image_ids)
    assert unseen
    assert tested, "this set has no test images of its own"
    assert leak(config, out, data) == {"unseen_images": len(unseen), "test_images": len(tested)}
    for honest in (
        {"personalize.data_seed": None},
        {"personalize.data_seed": config.data.seed},
        {"personalize.concept": "elsewhere"},
        {"mix.strategy": "real-mix"},
    ):
        assert leak(replace(config, **honest), out, data) == {}
    assert concept_images(replace(config, **{"personalize.data_seed": 0}), out, data.train) is (
        data.train
    )


def test_an_image_that_was_drawn_again_is_the_same_image(tmp_path, small_config):
    """With more shots than a class has images, draws differ in nothing but repeats."""
    changes = {"mix.strategy": "diff-mix", "data.shots": 99, "personalize.data_seed": 9}
    changes |= {"data.val_fraction": 0.0, "data.test": str(tmp_path / "test")}
    config, out = small_config(tmp_path / "out", **changes), Folder(str(tmp_path / "out"))
    for folder in Path(config.data.train).iterdir():
        own = tmp_path / "test" / folder.name
        own.mkdir(parents=True)
        Image.effect_noise((32, 32), 50).convert("RGB").save(own / "a.png")
    data = prepare(config.data, out.uri)
    assert any("#" in name for name in data.train.image_ids)
    assert leak(config, out, data) == {"unseen_images": 0, "test_images": 0}
