"""The page about several runs: what differs, paired intervals, the same mixes side by side."""

import json

import numpy as np
import pytest
import yaml
from scipy import stats

from diffmix.datasets.real import Example, RealSet
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.mixing.store import MixStore
from engine.results.compare import Run, _names, _pairs, compare
from engine.testing import mix_table
from jobs.cli import main

RIGHT = np.array([True, True, False, True, True, False, True, True])
BETTER = np.array([True, True, True, True, True, True, False, True])


@pytest.fixture
def runs(tmp_path):
    """Two finished runs on the same test images; the second has other options and other images of
    the same mixes.
    """

    def make(name: str, right: np.ndarray, strength: float, first: int) -> str:
        out = tmp_path / name
        (out / "data").mkdir(parents=True)
        examples = [Example(f"{i}", b"x", i % 2) for i in range(8)]
        for split in ("train", "test"):
            RealSet.write(str(out / "data" / f"{split}.arrow"), examples, ["a", "b"], "thing")
        labels = np.arange(8) % 2
        predicted = np.where(right, labels, 1 - labels).tolist()
        classifier = (Folder(str(out)) / "classifier").create()
        classifier.write("predictions.json", json.dumps(predicted).encode())
        config = {"out": str(out), "mix": {"strength": [strength], "gamma": 0.5}}
        (out / "config.yaml").write_text(yaml.safe_dump(config))
        summary = {
            "plan": {"planned": 4, "stored": 4, "rejected": 0},
            "accuracy": {"top1": float(right.mean()), "images": 8},
            "gpu_hours": {"mix": 0.25},
        }
        (out / "summary.json").write_text(json.dumps(summary))
        store = MixStore(str(out / "mixes"))
        store.bind({"class_names": ["a", "b"]})
        store.write(0, mix_table(4, first, image=[f"{name} {i}".encode() for i in range(4)]))
        return str(out)

    return [make("one", RIGHT, 0.5, 0), make("two", BETTER, 0.7, 2)]


def seeds(tmp_path, name: str, shares: list[float]) -> Run:
    summary = {"seeds": {str(i): {"accuracy": share} for i, share in enumerate(shares)}}
    out = Folder(str(tmp_path / name)).create()
    out.write("summary.json", json.dumps(summary).encode())
    return Run(name, out)


def test_the_page_has_figures_options_and_the_same_mixes(runs, tmp_path, monkeypatch):
    # The stand-ins of images are no images.
    monkeypatch.setattr("diffmix.report.html.thumbnail", lambda file, side: file.decode())
    page = compare(runs, str(tmp_path / "both"))
    assert page == f"{tmp_path}/both/compare.html"
    text = (tmp_path / "both" / "compare.html").read_text()
    assert "<td>mix.strength</td><td>0.5</td><td>0.7</td>" in text
    assert "<td>mix.gamma</td>" not in text, "options that are the same"
    assert "<td>out</td>" not in text
    assert "<td>GPU-hours: mix</td><td>0.25</td><td>0.25</td>" in text
    assert "<td>accuracy with mixes</td><td>75.0 %</td><td>87.5 %</td>" in text
    # Mixes 2 and 3 are in both stores.
    assert "2 of 2 mixes that have the same number" in text
    assert 'src="one 2"' in text
    assert 'src="two 0"' in text
    assert 'src="one 1"' not in text


def test_a_difference_over_the_same_test_images_is_paired(runs):
    ((name, _, over_images),) = _pairs(
        [Run("one", Folder(runs[0])), Run("two", Folder(runs[1]))]
    ).rows
    assert name == "two - one"
    change = 100 * (BETTER.astype(float) - RIGHT)
    low, high = stats.norm.interval(0.95, change.mean(), stats.sem(change))
    assert over_images == f"{change.mean():+.1f} ({low:+.1f} to {high:+.1f}), 8 images"


def test_a_difference_over_common_seeds_is_paired(tmp_path):
    first = seeds(tmp_path, "a", [0.60, 0.65, 0.62])
    second = seeds(tmp_path, "b", [0.66, 0.68, 0.70, 0.99])
    ((_, over_seeds, _),) = _pairs([first, second]).rows
    gains = np.array([6.0, 3.0, 8.0])
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    assert over_seeds == f"{gains.mean():+.1f} ({low:+.1f} to {high:+.1f}), 3 seeds"
    ((_, none, unknown),) = _pairs([first, seeds(tmp_path, "c", [0.5])]).rows
    assert none == "no two common seeds"
    assert unknown == "predictions were not kept"


def test_runs_are_told_apart_by_the_ends_of_their_paths():
    assert _names(["x/a", "y/b/"]) == ["a", "b"]
    assert _names(["x/seed-1", "y/seed-1"]) == ["x/seed-1", "y/seed-1"]
    assert _names(["x", "x"]) == ["x (1)", "x (2)"]


def test_the_command_needs_two_finished_runs(runs, tmp_path, capsys):
    assert main(["compare", runs[0]]) == 2
    assert "takes two or more run folders" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"holds no finished run \(no summary\.json\)"):
        compare([runs[0], str(tmp_path / "nothing")], str(tmp_path))
