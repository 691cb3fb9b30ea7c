"""Mixes that somebody made with the reference implementation train a classifier here."""

import json

import pytest
import timm
import yaml
from PIL import Image
from safetensors.torch import load_file

from diffmix.config import to_dict
from diffmix.formats import reference
from diffmix.storage import Folder
from engine.compose import compose
from engine.run import run, synthesize
from engine.store import MixStore
from jobs.cli import main

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, photos):
    """A folder of the reference: every photo as a mix of its class and the next, in its file names."""
    folder = tmp_path_factory.mktemp("theirs")
    classes = sorted(photos.iterdir())
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        source = classes.index(path.parent)
        target = classes[(source + 1) % 4]
        place = folder / "data" / reference.directory(path.parent.name)
        place.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(place / f"{reference.directory(target.name)}-{number:06d}-0.7.png")
    return folder


def test_train_on_the_references_mixes(tmp_path, small_config, theirs, capsys):
    config = small_config(tmp_path / "out", **{"compose.stores": (str(theirs),), "mix.strategy": "diff-mix", "mix.synthetic_p": 0.5})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    assert main(["compose", "--config", str(recipe)]) == 0
    assert main(["train", "--config", str(recipe)]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["plan"] == {"planned": 32, "stored": 32, "rejected": 0}
    assert 0.3 < summary["trainer"]["synthetic_share"] < 0.7
    weights = load_file(tmp_path / "out" / "classifier" / "model.safetensors")
    timm.create_model("resnet10t", num_classes=4).load_state_dict(weights)
    assert (tmp_path / "out" / "report" / "mixes.png").exists()
    assert not (tmp_path / "out" / "concept").exists()

    # `run` finds everything done, and `synthesize` finds nothing to make.
    classifier = tmp_path / "out" / "classifier" / "model.safetensors"
    before = classifier.stat().st_mtime_ns
    assert run(config)["plan"] == summary["plan"]
    assert synthesize(config)["plan"] == summary["plan"]
    assert classifier.stat().st_mtime_ns == before


def test_another_composition_is_another_classifier(tmp_path, small_config, theirs):
    found = []
    for name, changes in (("all", {}), ("few", {"compose.count": (3,)})):
        config = small_config(tmp_path / name, **{"compose.stores": (str(theirs),), "mix.synthetic_p": 0.5, "train.epochs": 2, **changes})
        compose(config)
        summary = run(config)
        assert summary["plan"]["planned"] == len(next(MixStore(str(tmp_path / name / "mixes")).tables(["mix_id"])))
        found.append(load_file(tmp_path / name / "classifier" / "model.safetensors"))
    assert any((found[0][key] != found[1][key]).any() for key in found[0])
    assert Folder(str(tmp_path / "few")).exists("mixes")
