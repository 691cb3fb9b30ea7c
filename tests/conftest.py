"""Settings that every test needs before Ray or a hub client is imported, and the small jobs that several folders use."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Ray would write a token file into the home folder and expect it of every process.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

THIRTY_NAMES = [
    "Rotkehlchen",
    "Blaumeise (männlich)",
    "Großer Würger",
    "翠鸟",
    "红嘴蓝鹊",
    "black footed albatross",
    "001.Laysan_Albatross",
    "Audi A4 2∕3-door",  # a slash's substitute, as a file name has it
    "C-130 ∕ Hercules",
    "ñandú",
    "Éider à duvet",
    "o'hara's bird",
    *(f"species {i:02d} é" for i in range(18)),
]


def _write_images(folder: Path, class_names: list[str], per_class: int, side: int = 24) -> Path:
    """A folder per class; each class has a colour of its own, so that a classifier can learn it."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number, name in enumerate(class_names):
        (folder / name).mkdir(parents=True)
        colour = np.array([(number * 53) % 256, (number * 97) % 256, (number * 151) % 256])
        for index in range(per_class):
            pixels = np.clip(colour + rng.normal(0, 20, (side, side, 3)), 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            (folder / name / f"{index}.png").write_bytes(file.getvalue())
    return folder


@pytest.fixture(scope="session")
def write_images():
    """`write_images(folder, class names, images per class)` writes an image folder and gives its path."""
    return _write_images


@pytest.fixture(scope="session")
def thirty_names() -> list[str]:
    """Class names as people have them: spaces, a slash's substitutes, umlauts, Chinese characters."""
    return THIRTY_NAMES


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """4 classes of 8 images."""
    return _write_images(tmp_path_factory.mktemp("photos") / "small", ["red one", "green", "blau", "黄"], 8)


@pytest.fixture(scope="session")
def small_config(tiny_base, photos):
    """A function of `out` and of changes to options ("mix.count": 3) that gives a job of seconds."""

    from diffmix.config import Config, DataConfig, MixConfig, ModelConfig, PersonalizeConfig, RunConfig, TrainConfig

    def make(out: Path, **changes) -> Config:
        config = Config(
            out=str(out),
            data=DataConfig(train=str(photos), superclass="thing", val_fraction=0.2),
            model=ModelConfig(base=str(tiny_base)),
            personalize=PersonalizeConfig(steps=6, batch_size=2, lora_rank=2, checkpoint_every=2),
            mix=MixConfig(count=40, batch=4, num_inference_steps=4, synthetic_p=0.3, strength=(0.5, 0.75), strategy="real-mix"),
            train=TrainConfig(
                model_name="resnet10t",
                pretrained=False,
                resolution=24,
                resize=24,
                crop_padding=2,
                epochs=4,
                batch_size=8,
                lr=0.02,
                eval_every=2,
                loader_workers=0,
            ),
            run=RunConfig(seed=3),
        )
        for option, value in changes.items():
            group, _, name = option.rpartition(".")
            setattr(getattr(config, group) if group else config, name, value)
        return config

    return make


@pytest.fixture(scope="module")
def cluster():
    """One Ray for a module's tests, on logical GPUs."""
    import ray

    ray.init(
        address="local",
        num_gpus=4,
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=300_000_000,
        namespace="diffmix",
        log_to_driver=False,
    )
    yield
    ray.shutdown()
