"""Prior preservation: images that the base model makes once, and their share of the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffmix.config import ModelConfig, PersonalizeConfig
from diffmix.images import decode
from diffmix.personalize import prior
from diffmix.personalize.batches import Batches
from diffmix.personalize.prior import prior_images
from diffmix.personalize.train import Attempt, train_concept
from diffmix.storage import Folder


@pytest.fixture(scope="module")
def painted(tmp_path_factory, tiny_base):
    """10 images in a folder, with the second chunk made whole."""
    folder = Folder(str(tmp_path_factory.mktemp("prior")))
    return prior_images(ModelConfig(base=str(tiny_base), precision="fp32"), "animal", 10, 7, folder)


def test_they_are_the_base_models_own_images_of_the_superclass(painted, tiny_base):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    assert len(painted) == 10
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    for index in (0, 9):
        generator = torch.Generator().manual_seed(prior._seed(7, index))
        stock = pipe(
            "a photo of a animal", num_inference_steps=25, guidance_scale=7.5, generator=generator
        ).images[0]
        difference = np.asarray(stock, dtype=float) - np.asarray(
            decode(painted.image_bytes(index)), dtype=float
        )
        assert np.abs(difference).max() <= 1


def test_they_are_made_once_and_depend_on_seed_and_number_alone(
    tmp_path, painted, tiny_model, monkeypatch
):
    fewer = prior_images(tiny_model, "animal", 3, 7, Folder(str(tmp_path / "a")))
    assert [fewer.image_bytes(i) for i in range(3)] == [painted.image_bytes(i) for i in range(3)]
    other = prior_images(tiny_model, "animal", 3, 8, Folder(str(tmp_path / "a")))
    assert other.image_bytes(0) != fewer.image_bytes(0)
    assert len(Folder(str(tmp_path / "a")).names()) == 2

    # A lost file: its chunk is made again, the other is not touched.
    before = [painted.image_bytes(i) for i in range(10)]
    files = sorted(Path(painted.folder.path).glob("*.png"))
    files[9].unlink()
    times = [file.stat().st_mtime_ns for file in files[:8]]
    root = Folder(str(Path(painted.folder.path).parent))
    repaired = prior_images(tiny_model, "animal", 10, 7, root)
    assert [repaired.image_bytes(i) for i in range(10)] == before
    assert times == [file.stat().st_mtime_ns for file in files[:8]]
    monkeypatch.setattr(prior, "_make", None)  # making any more fails
    prior_images(tiny_model, "animal", 10, 7, root)


def settings(**changes) -> PersonalizeConfig:
    return PersonalizeConfig(
        **{
            "steps": 2,
            "batch_size": 2,
            "lora_rank": 2,
            "lora_lr": 1e-2,
            "prior_images": 8,
            **changes,
        }
    )


def test_the_loss_is_the_real_images_and_the_prior_images_times_the_weight():
    class Cache:
        """A latent cache that gives the image's number."""

        cropped, scale = False, 1.0

        def __init__(self, first: int, count: int):
            self.first, self.count = first, count

        def __len__(self):
            return self.count

        def posteriors(self, slots, step, views):
            found = [[self.first + view.image, 0] for view in views(step)]
            return torch.tensor(found, dtype=torch.float32)[..., None, None, None]

    labels = np.array([0, 1, 2])
    config = settings(prior_weight=0.5, prompts=("a", "b"), prompt_dropout=1.0)
    alone = Batches(Cache(0, 3), labels, config, 1000, 0, 4).draw(5, range(4), 3)
    batch = Batches(Cache(0, 3), labels, config, 1000, 0, 4, Cache(100, 50)).draw(5, range(4), 3)
    assert all(
        torch.equal(one, other[:4]) for one, other in zip(alone[:-1], batch[:-1], strict=True)
    )  # the real ones stay the same
    assert batch.weights.tolist() == [0.25] * 4 + [0.125] * 4
    assert alone.weights.sum() == 1
    assert batch.prompts.tolist() == [6] * 4 + [7] * 4  # the empty prompt, then the prior images'
    assert (batch.latents[4:] >= 100).all()
    assert len(set(batch.timesteps.tolist())) > 4
    halves = [
        Batches(Cache(0, 3), labels, config, 1000, 0, 4, Cache(100, 50)).draw(5, part, 3)
        for part in (range(2), range(2, 4))
    ]
    assert torch.equal(torch.cat([half.noise[2:] for half in halves]), batch.noise[4:])


@pytest.mark.trains
def test_the_weight_and_the_number_of_images_change_what_is_learnt(tmp_path, tiny_model, tiny_real):
    def trained(name, **changes):
        from safetensors.torch import load_file

        train_concept(
            tiny_model,
            settings(**changes),
            tiny_real,
            tmp_path / name / "concept",
            0,
            Attempt(prior=Folder(str(tmp_path / "prior"))),
        )
        return load_file(tmp_path / name / "concept" / "pytorch_lora_weights.safetensors")

    weights = [
        trained("a"),
        trained("b", prior_weight=1.0),
        trained("c", prior_weight=2.0),
        trained("d", prior_weight=1.0, prior_images=2),
    ]
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert any(not torch.equal(one[key], other[key]) for key in one)
    images = list((tmp_path / "prior").rglob("*.png"))
    assert len(images) == 8
    with Image.open(images[0]) as image:
        assert image.size == (32, 32)


def test_without_a_folder_they_lie_beside_the_concept(tmp_path, tiny_model, tiny_real):
    train_concept(
        tiny_model,
        settings(steps=1, prior_weight=1.0, prior_images=1),
        tiny_real,
        tmp_path / "concept",
        0,
    )
    assert len(list((tmp_path / "prior").rglob("*.png"))) == 8
