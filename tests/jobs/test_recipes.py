"""Every recipe parses, passes the check, and has the paper's values."""

from functools import cache
from pathlib import Path

import pytest
import timm

from diffmix.classifier.model import describe
from diffmix.config import Config, with_absolute_paths
from diffmix.config_check import check
from diffmix.datasets.named import names
from jobs.options import load, parse

RECIPES = Path(__file__).parents[2] / "jobs" / "recipes"
PARTS = {"data", "backbones", "addons"}
"""Folders of files that other recipes inherit, or that are given after a recipe."""
ALL = sorted(str(file.relative_to(RECIPES)) for file in RECIPES.rglob("*.yaml"))
WHOLE = [
    name
    for name in ALL
    if Path(name).parts[0] not in PARTS and Path(name).name not in ("common.yaml", "method.yaml")
]

DATA = ["dogs", "cub", "flowers", "cars", "aircraft"]
RATES = {  # the paper's code, in the order of DATA
    "resnet50_224": [0.005, 0.05, 0.05, 0.10, 0.10],
    "resnet50_448": [0.005, 0.025, 0.05, 0.05, 0.05],
    "vit_b16_384": [1e-5, 1e-3, 5e-4, 1e-3, 1e-3],
}
SIZES = {
    "resnet50_224": (224, 256, 256),
    "resnet50_448": (448, 512, 64),
    "vit_b16_384": (384, 440, 32),
}
"""Resolution, resize, batch size."""


@cache
def recipe(*names: str) -> Config:
    """What `--config NAME --config NAME ...` gives."""
    config = Config()
    for name in names:
        config = load(str(RECIPES / name), config)
    return config


def test_the_command_line_reads_recipes_in_this_way():
    names = ("long_tail/resnet50_224/cub/if_100.yaml", "addons/ldam_drw.yaml")
    arguments = [part for name in names for part in ("--config", str(RECIPES / name))]
    assert parse(arguments) == with_absolute_paths(recipe(*names))


@pytest.mark.parametrize("name", ALL)
def test_recipe_can_be_meant(name):
    config = recipe(name)
    if not name.startswith("addons/"):  # these are checked on top of a recipe
        check(config)
    describe(config.train, ["a", "b"])


def test_the_page_of_recipes_names_every_folder_and_addon():
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    for name in ALL:
        assert Path(name).parts[0] in text, name
        if name.startswith("addons/") and not name.endswith("/drw.yaml"):  # a part of ldam_drw
            words = Path(name).stem.replace("_", " ")
            found = text.lower().replace("-", " ").replace("_", " ")
            assert words in found, name


def test_data_sets_have_the_names_that_the_command_line_knows():
    for name in DATA:
        assert name in names()
        source = recipe(f"data/{name}.yaml").data.train.partition(":")[0]
        assert source in (name, "flowers-half")


def test_there_is_one_for_every_row_of_the_paper():
    rows = {f"conventional/{backbone}/{data}.yaml" for backbone in RATES for data in DATA}
    rows |= {
        f"few_shot/resnet50_224/{shots}_shot/{data}.yaml" for shots in (1, 5, 10) for data in DATA
    }
    rows |= {
        f"long_tail/resnet50_224/{data}/if_{ratio}.yaml"
        for data in ("cub", "flowers")
        for ratio in (100, 50, 10)
    }
    rows |= {"robustness/resnet50_224/cub_to_waterbirds.yaml"}
    assert rows == {name for name in WHOLE if not name.startswith("nano/")}


@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith("nano/")])
def test_data_are_of_a_published_set_and_weights_exist(name):
    config = recipe(name)
    for source in filter(None, (config.data.train, config.data.test)):
        assert source.partition(":")[0] in names()
    assert config.train.pretrained
    assert config.train.model_name in timm.list_pretrained()
    assert (config.mix.strategy, config.mix.strength, config.mix.multiplier) == (
        "diff-mix",
        (0.7,),
        5.0,
    )
    assert (config.personalize.steps, config.personalize.lora_rank) == (35_000, 10)
    assert (config.mix.num_inference_steps, config.mix.guidance_scale) == (25, 7.5)
    assert config.train.protocol == "validation"


@pytest.mark.parametrize(
    ("backbone", "number"), [(backbone, number) for backbone in RATES for number in range(5)]
)
def test_conventional(backbone, number):
    config = recipe(f"conventional/{backbone}/{DATA[number]}.yaml")
    train = config.train
    assert train.lr == RATES[backbone][number]
    assert (train.resolution, train.resize, train.batch_size) == SIZES[backbone]
    assert (train.optimizer, train.momentum, train.weight_decay, train.epochs) == (
        "sgd",
        0.9,
        5e-4,
        120,
    )
    assert (train.label_smoothing, train.warmup_fraction, train.crop_padding, train.flip) == (
        0.1,
        0.1,
        8,
        True,
    )
    assert config.mix.synthetic_p == 0.1
    assert config.mix.soft_scale == (0.9 if DATA[number] in ("cub", "flowers") else 1.0)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("shots", [1, 5, 10])
def test_few_shot(data, shots):
    config = recipe(f"few_shot/resnet50_224/{shots}_shot/{data}.yaml")
    assert config.data.shots == shots
    assert (config.mix.synthetic_p, config.mix.gamma) == (0.3, 0.5)
    assert config.train.lr == RATES["resnet50_224"][DATA.index(data)]


@pytest.mark.parametrize(("ratio", "factor"), [(100, 0.01), (50, 0.02), (10, 0.1)])
@pytest.mark.parametrize(("data", "thresholds"), [("cub", (20, 5)), ("flowers", (30, 10))])
def test_long_tail(data, thresholds, ratio, factor):
    config = recipe(f"long_tail/resnet50_224/{data}/if_{ratio}.yaml")
    assert config.data.imbalance_factor == factor
    assert (config.evaluate.many_above, config.evaluate.few_below) == thresholds
    assert (config.mix.source_sampling, config.mix.target_sampling, config.mix.soft_scale) == (
        "image",
        "inverse",
        1.0,
    )
    train = config.train
    assert (train.lr, train.epochs, train.batch_size, train.weight_decay) == (0.005, 200, 128, 2e-4)
    assert config.personalize.class_balanced


@pytest.mark.parametrize("added", sorted(name for name in ALL if name.startswith("addons/")))
def test_additions_work_on_a_recipe_and_change_it(added):
    name = "long_tail/resnet50_224/cub/if_100.yaml"
    changed = recipe(name, added)
    check(changed)
    assert changed != recipe(name)


def test_robustness_is_trained_on_cub_and_tested_on_waterbirds():
    config = recipe("robustness/resnet50_224/cub_to_waterbirds.yaml")
    assert config.data.train.startswith("cub:")
    assert config.data.test is not None
    assert config.data.test.startswith("waterbirds:")


def test_nano_has_a_counterpart_for_each_protocol_and_strategy():
    from diffmix import strategies

    for name in ("few_shot", "conventional", "long_tail", "robustness"):
        assert recipe(f"nano/{name}.yaml").data.train == "nano"
    for strategy in strategies.names():
        config = recipe(f"nano/strategies/{strategy}.yaml")
        assert config.mix.strategy == strategy
        assert config.personalize.lora == (not strategy.startswith("ti-"))


def test_a_list_of_parents_is_read_in_order(tmp_path):
    (tmp_path / "a.yaml").write_text("mix: {gamma: 0.6, multiplier: 2}\n")
    (tmp_path / "b.yaml").write_text("mix: {gamma: 0.7}\n")
    (tmp_path / "child.yaml").write_text("inherit: [a.yaml, b.yaml]\ntrain: {epochs: 3}\n")
    config = load(str(tmp_path / "child.yaml"))
    assert (config.mix.gamma, config.mix.multiplier, config.train.epochs) == (0.7, 2, 3)
