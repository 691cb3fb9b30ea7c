"""A classifier is trained on mixes that were made with the reference implementation."""

import json

import pytest
import timm
import yaml
from PIL import Image
from safetensors.torch import load_file

from diffmix.config import to_dict
from diffmix.formats import reference
from engine.mixing.compose import compose
from engine.run import run, run_mixing
from jobs.cli import main

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, photos):
    """A folder in the reference's layout: each image as a mix of its own class and the next."""
    folder = tmp_path_factory.mktemp("theirs")
    classes = sorted(photos.iterdir())
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        source = classes.index(path.parent)
        target = classes[(source + 1) % 4]
        class_folder = folder / "data" / reference.directory(path.parent.name)
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(
            class_folder / f"{reference.directory(target.name)}-{number:06d}-0.7.png"
        )
    return folder


@pytest.fixture(scope="module")
def options(small_config, theirs):
    """`options(out, **changes)`: the configuration of a job on those mixes."""

    def make(out, **changes):
        settings = {"mix.strategy": "diff-mix", "mix.synthetic_p": 0.5, "train.epochs": 2}
        return small_config(out, **{"compose.stores": (str(theirs),), **settings, **changes})

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory, options):
    """A run folder: composed and trained on through the command line."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(options(folder / "out"))))
    assert main(["compose", "--config", str(recipe)]) == 0
    assert main(["train", "--config", str(recipe)]) == 0
    return folder / "out"


def test_a_classifier_of_the_references_mixes(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["plan"] == {"planned": 32, "stored": 32, "rejected": 0, "set_aside": 0}
    assert 0.3 < summary["trainer"]["synthetic_share"] < 0.7
    timm.create_model("resnet10t", num_classes=4).load_state_dict(
        load_file(trained / "classifier" / "model.safetensors")
    )
    assert (trained / "report" / "mixes.png").exists()
    assert not (trained / "concept").exists(), "diff-mix personalizes, but there is no mix to make"


def test_all_is_done(trained, options):
    before = (trained / "classifier" / "model.safetensors").stat().st_mtime_ns
    for command in (run, run_mixing):
        assert command(options(trained))["plan"] == {
            "planned": 32,
            "stored": 32,
            "rejected": 0,
            "set_aside": 0,
        }
    assert (trained / "classifier" / "model.safetensors").stat().st_mtime_ns == before


def test_run_trains_on_another_composition(tmp_path, trained, options):
    config = options(tmp_path / "out", **{"compose.count": (3,)})
    compose(config)
    assert run(config)["plan"] == {"planned": 3, "stored": 3, "rejected": 0, "set_aside": 0}
    one, other = (
        load_file(out / "classifier" / "model.safetensors") for out in (trained, tmp_path / "out")
    )
    assert any((one[key] != other[key]).any() for key in one)
