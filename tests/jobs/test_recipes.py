"""Every recipe parses, passes the check, and has the values of the paper's code.

The tables are typed from the facts about the code, not from the recipes.
"""

from functools import cache
from math import ceil
from operator import attrgetter
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
ROWS = [name for name in WHOLE if Path(name).parts[0] not in ("nano", "referee")]
"""The paper's rows."""

DATA = ["dogs", "cub", "flowers", "cars", "aircraft", "pets", "food101"]
CLASSES = [120, 200, 102, 196, 100, 37, 101]
SOURCES = {"flowers": "flowers-half", "aircraft": "aircraft-train"}
"""How `data.train` names a set, where the code's split is not the publisher's."""
RATES = {  # in the order of DATA
    "resnet50_224": [0.005, 0.05, 0.05, 0.10, 0.10, 0.01, 0.01],
    "resnet50_448": [0.005, 0.025, 0.05, 0.05, 0.05, 0.005, 0.01],
    "vit_b16_384": [1e-5, 1e-3, 5e-4, 1e-3, 1e-3, 1e-4, 5e-5],
}
SIZES = {
    "resnet50_224": (224, 256, 256),
    "resnet50_448": (448, 512, 64),
    "vit_b16_384": (384, 440, 32),
}
"""Resolution, resize, batch size."""
SHOTS_P = {1: 0.5, 5: 0.2, 10: 0.1}
"""Shots -> p. Flowers' script for 5 shots has .3."""
TAIL_P = {
    ("cub", 0.01): 0.5,
    ("cub", 0.02): 0.5,  # no script: the nearest factor's
    ("cub", 0.05): 0.3,
    ("cub", 0.1): 0.3,  # no script: the nearest factor's
    ("flowers", 0.01): 0.5,
    ("flowers", 0.02): 0.5,  # no script: the nearest factor's
    ("flowers", 0.05): 0.2,
    ("flowers", 0.1): 0.1,
}
FACTORS = {100: 0.01, 50: 0.02, 20: 0.05, 10: 0.1}


def tail_steps(images: int, classes: int, factor: float) -> int:
    """100 epochs with 2 images on each of 4 GPUs; the last batch may be smaller."""
    mean = images / classes
    kept = [max(int(mean * factor ** (i / (classes - 2))), 1) for i in range(classes)]
    return 100 * ceil(sum(kept) / 8)


TAIL_STEPS = {
    (data, factor): tail_steps(images, classes, factor)
    for data, images, classes in (("cub", 5994, 200), ("flowers", 4068, 102))
    for factor in FACTORS.values()
}
REFEREE = {  # method, data, shots -> strength, p
    ("diff_mix", "cub", 1): (0.5, 0.7),
    ("diff_mix", "cub", 5): (0.7, 0.7),
    ("diff_mix", "cub", 10): (0.7, 0.3),
    ("diff_mix", "aircraft", 1): (0.7, 0.1),
    ("diff_mix", "aircraft", 5): (0.7, 0.7),
    ("diff_mix", "aircraft", 10): (0.7, 0.7),
    ("diff_aug", "cub", 1): (0.9, 0.7),
    ("diff_aug", "cub", 5): (0.9, 0.5),
    ("diff_aug", "cub", 10): (0.9, 0.3),
    ("diff_aug", "aircraft", 1): (0.1, 0.3),
    ("diff_aug", "aircraft", 5): (0.9, 0.5),
    ("diff_aug", "aircraft", 10): (0.9, 0.5),
}


def differences(config: Config, **expected: object) -> dict[str, object]:
    """The options, written `group__name`, that are not as expected, with their values."""
    found = {}
    for name, value in expected.items():
        had = attrgetter(name.replace("__", "."))(config)
        if had != value:
            found[name] = had
    return found


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
        source = recipe(f"data/{name}.yaml").data.train.partition(":")[0]
        assert source == SOURCES.get(name, name)
        assert source in names()


def test_there_is_one_for_every_row_of_the_paper():
    rows = {f"conventional/{backbone}/{data}.yaml" for backbone in RATES for data in DATA}
    rows |= {
        f"few_shot/resnet50_224/{shots}_shot/{data}.yaml" for shots in (1, 5, 10) for data in DATA
    }
    rows |= {
        f"long_tail/resnet50_224/{data}/if_{ratio}.yaml"
        for data in ("cub", "flowers")
        for ratio in FACTORS
    }
    rows |= {"robustness/resnet50_224/cub_to_waterbirds.yaml"}
    assert rows == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_what_all_rows_share(name):
    config = recipe(name)
    for source in filter(None, (config.data.train, config.data.test)):
        assert source.partition(":")[0] in names()
    assert config.train.model_name in timm.list_pretrained()
    assert not differences(
        config,
        personalize__lora_rank=10,
        personalize__lora_lr=5e-5,
        personalize__token_lr=5e-5,
        personalize__initializer=42170,
        personalize__weight_decay=0.01,
        personalize__token_weight_decay=0.01,
        personalize__clip_tokens=False,
        personalize__resize_mode="shorter",
        personalize__cached_crops=0,
        personalize__prompts=("a photo of a {token} {superclass}",),
        mix__strategy="diff-mix",
        mix__strength=(0.7,),
        mix__num_inference_steps=25,
        mix__guidance_scale=7.5,
        mix__target_sampling="uniform",
        train__pretrained=True,
        train__optimizer="sgd",
        train__momentum=0.9,
        train__smooth_mixes=True,
        train__gradient_clip=0.0,
        train__protocol="validation",
    )


@pytest.mark.parametrize(
    ("backbone", "number"),
    [(backbone, number) for backbone in RATES for number in range(len(DATA))],
)
def test_conventional(backbone, number):
    config = recipe(f"conventional/{backbone}/{DATA[number]}.yaml")
    assert (config.train.resolution, config.train.resize, config.train.batch_size) == (
        SIZES[backbone]
    )
    assert not differences(
        config,
        personalize__resolution=224,
        personalize__global_batch_size=8,
        personalize__steps=35_000,
        mix__multiplier=5.0,
        mix__gamma=0.8,
        mix__synthetic_p=0.1,
        mix__soft_scale=0.9,
        mix__target_weighting="uniform",
        mix__source_sampling="class",
        train__lr=RATES[backbone][number],
        train__lr_per="step",
        train__weight_decay=5e-4,
        train__epochs=120,
        train__label_smoothing=0.1,
        train__smoothing_form="others",
        train__warmup_fraction=0.1,
        train__resize_mode="squash",
        train__crop_padding=8,
        train__flip=True,
        train__last_batch=None,
        train__eval_every=None,
    )


@pytest.mark.parametrize("number", range(len(DATA)))
@pytest.mark.parametrize("shots", [1, 5, 10])
def test_few_shot(number, shots):
    """Concepts of 400 epochs with 4 images on each of 4 GPUs; the last batch may be smaller."""
    data = DATA[number]
    config = recipe(f"few_shot/resnet50_224/{shots}_shot/{data}.yaml")
    assert not differences(
        config,
        data__shots=shots,
        personalize__resolution=512,
        personalize__global_batch_size=16,
        personalize__steps=400 * ceil(CLASSES[number] * shots / 16),
        mix__synthetic_p=0.3 if (data, shots) == ("flowers", 5) else SHOTS_P[shots],
        mix__gamma=0.5,
        mix__soft_scale=0.9,
        mix__multiplier=5.0,
        train__epochs=100,
        train__batch_size=256,
        train__lr=RATES["resnet50_224"][number],
        train__resize_mode="squash",
        train__smoothing_form="others",
    )


@pytest.mark.parametrize("ratio", FACTORS)
@pytest.mark.parametrize(("data", "thresholds"), [("cub", (20, 5)), ("flowers", (30, 10))])
def test_long_tail(data, thresholds, ratio):
    config = recipe(f"long_tail/resnet50_224/{data}/if_{ratio}.yaml")
    assert (config.evaluate.many_above, config.evaluate.few_below) == thresholds
    assert not differences(
        config,
        data__imbalance_factor=FACTORS[ratio],
        personalize__resolution=512,
        personalize__global_batch_size=8,
        personalize__class_balanced=False,
        personalize__steps=TAIL_STEPS[data, FACTORS[ratio]],
        mix__multiplier=10.0,
        mix__source_sampling="image",
        mix__target_weighting="inverse",
        mix__synthetic_p=TAIL_P[data, FACTORS[ratio]],
        mix__gamma=0.5,
        mix__soft_scale=1.0 if data == "cub" else 0.9,
        train__lr=0.005,
        train__lr_per="epoch",
        train__lr_drop_epochs=(160, 180),
        train__lr_drop_factor=0.01,
        train__epochs=200,
        train__batch_size=128,
        train__weight_decay=2e-4,
        train__label_smoothing=0.0,
        train__resize_mode="shorter",
        train__resized_crop=True,
        train__color_jitter=0.4,
        train__hue=0.0,
        train__rand_augment=False,
        train__last_batch="short",
        train__eval_every=1,
        train__loss="ce",
    )


@pytest.mark.parametrize(("method", "data", "shots"), REFEREE)
def test_referee(method, data, shots):
    config = recipe(f"referee/{method}/{shots}_shot/{data}.yaml")
    strength, p = REFEREE[method, data, shots]
    assert config.data.train.startswith(f"diffda-{data}:")
    assert not differences(
        config,
        model__base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        data__shots=shots,
        personalize__steps=500,
        personalize__lora_rank=8,
        personalize__lora_lr=64 * 5e-6,
        personalize__token_lr=64 * 5e-4,
        personalize__global_batch_size=64,
        personalize__resolution=512,
        personalize__initializer="{superclass}",
        mix__strategy=method.replace("_", "-"),
        mix__strength=(strength,),
        mix__synthetic_p=p,
        mix__multiplier=5.0,
        mix__gamma=0.5,
        mix__soft_scale=1.0,
        mix__num_inference_steps=25,
        train__model_name="resnet50.tv_in1k",
        train__resolution=224,
        train__resize=256,
        train__resize_mode="squash",
        train__batch_size=256,
        train__lr=0.1,
        train__warmup_fraction=0.0,
        train__epochs=128,
        train__weight_decay=5e-4,
        train__label_smoothing=0.1,
        train__protocol="reference",
        train__eval_every=1,
    )
    assert {f"referee/{m}/{k}_shot/{d}.yaml" for m, d, k in REFEREE} == {
        name for name in WHOLE if name.startswith("referee/")
    }


FEW, TAIL = "few_shot/resnet50_224/5_shot/cub.yaml", "long_tail/resnet50_224/cub/if_100.yaml"
ADDED = {  # recipe and addon -> what the code has
    (FEW, "few_shot_head"): {
        "personalize__resolution": 224,
        "personalize__global_batch_size": 8,
        "personalize__steps": 35_000,
        "mix__gamma": 0.8,
        "mix__synthetic_p": 0.1,
        "train__epochs": 120,
    },
    (FEW, "five_shot_ablation"): {
        "mix__synthetic_p": 0.3,
        "mix__gamma": 0.5,
        "train__epochs": 128,
    },
    (FEW, "leaky_shots"): {"personalize__data_seed": 42, "data__seed": 0},
    (FEW, "reference_protocol"): {"train__protocol": "reference", "data__val_fraction": 0.0},
    (FEW, "three_seeds"): {"run__seeds": (2020, 2021, 2022), "run__seeds_vary": "classifier"},
    (TAIL, "long_tail_head"): {
        "personalize__resolution": 224,
        "personalize__steps": 35_000,
        "personalize__class_balanced": True,
        "mix__gamma": 0.8,
        "mix__synthetic_p": 0.5,
        "mix__multiplier": 5.0,
    },
    (TAIL, "rand_augment"): {"train__rand_augment": True, "train__lr_drop_factor": 0.1},
    (TAIL, "cmo"): {"train__cmo_skip": (4, 3), "train__cmo_mixes": True},
    (TAIL, "ldam_drw"): {
        "train__ldam_head": "plain",
        "train__reweight_mean": "torch",
        "train__drw_epoch": 160,
    },
    ("conventional/resnet50_448/cub.yaml", "conventional_submission"): {
        "personalize__resolution": 512,
        "train__epochs": 128,
    },
}
for addon, probability in {
    "mixup": 0.5,
    "cutmix": 0.5,
    "mixup_submission": 0.3,
    "cutmix_submission": 0.1,
}.items():
    ADDED["conventional/resnet50_448/cub.yaml", addon] = {
        "train__mix_form": "reference",
        "train__mix_probability": probability,
        "train__weight_decay": 1e-4,
        f"train__{addon.partition('_')[0]}_alpha": 1.0,
    }
for data, prompts in {
    "cub": ("a photo with a bird on it", "a photo without a bird on it"),
    "aircraft": ("a photo with an aricraft on it. ", "a photo without an aricraft on it. "),
    "dogs": ("a photo with a dog on it. ", "a photo without a dog on it. "),
    "flowers": ("a photo with a flower on it. ", "a photo without a flower on it. "),
    "cars": ("a photo with a car on it. ", "a photo without an car on it. "),
}.items():
    ADDED[f"conventional/resnet50_448/{data}.yaml", f"clip_filter_{data}"] = {
        "gate__clip": "openai/clip-vit-base-patch32",
        "gate__prompts": prompts,
        "gate__quantile": 0.1,
        "run__mode": "staged",
    }


@pytest.mark.parametrize(("name", "added"), ADDED)
def test_addons_have_the_values_of_the_code(name, added):
    changed = recipe(name, f"addons/{added}.yaml")
    check(changed)
    assert not differences(changed, **ADDED[name, added])


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
