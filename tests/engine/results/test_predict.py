"""`diffmix predict`, against timm's own model with the same weights."""

import csv
import io

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from diffmix.classifier.model import build_model, describe, save_classifier
from diffmix.config import TrainConfig
from diffmix.storage import Folder
from engine.results.predict import Predictor, predict
from jobs.cli import main

CLASS_NAMES = ["fox", "a, wolf", "狐"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a classifier of random weights."""
    out = tmp_path_factory.mktemp("run")
    options = TrainConfig(model_name="test_resnet", pretrained=False, resolution=32, resize=32)
    torch.manual_seed(0)
    model = build_model(options, 3)
    description = describe(options, CLASS_NAMES)
    save_classifier(Folder(str(out / "classifier")).create(), model.state_dict(), description)
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two images of 32 px in different folders, a broken one, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    rng = np.random.default_rng(0)
    for name in ("b.png", "deep/a.PNG"):
        pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, "PNG")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


def by_timm(run, image) -> np.ndarray:
    """The probabilities by timm alone, with ImageNet's mean and deviation."""
    from safetensors.torch import load_file

    model = timm.create_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(load_file(run / "classifier" / "model.safetensors"))
    pixels = torch.tensor(np.asarray(Image.open(image))).permute(2, 0, 1)[None] / 255
    moments = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in moments)
    with torch.inference_mode():
        return model((pixels - mean) / std).softmax(1)[0].numpy()


def test_probabilities_are_timms(run, photos):
    predictor = Predictor(str(run), "cpu")
    found = {one.path: one for one in predictor.folder(str(photos))}
    assert list(found) == ["b.png", "broken.jpg", "deep/a.PNG"]
    for name in ("b.png", "deep/a.PNG"):
        expected = by_timm(run, photos / name)
        np.testing.assert_allclose(found[name].probabilities, expected, atol=1e-5)
    assert found["broken.jpg"].error
    assert len(found["broken.jpg"].probabilities) == 0


def test_the_csv_file_has_a_row_for_each_image(run, photos):
    text, number, broken = predict(str(run), str(photos))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert (number, broken) == (3, 1)
    assert list(rows[0]) == ["image", "class", "probability", *CLASS_NAMES, "error"]
    for row in (rows[0], rows[2]):
        shares = {name: float(row[name]) for name in CLASS_NAMES}
        assert row["class"] == max(shares, key=shares.get)
        assert float(row["probability"]) == max(shares.values())
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
    assert rows[1]["class"] == ""
    assert rows[1]["error"]


def test_the_command_prints_csv_and_says_what_could_not_be_read(run, photos, capsys):
    assert main(["predict", "--out", str(run), "--data.test", str(photos)]) == 0
    shown = capsys.readouterr()
    assert shown.out == predict(str(run), str(photos))[0]
    assert "1 of 3 images could not be read" in shown.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--data.test is not set"),
        (["--data.test", "FOLDER"], "holds no classifier"),
        (["--data.test", "EMPTY", "--out", "RUN"], "has no images"),
    ],
)
def test_mistakes_are_one_sentence(run, photos, tmp_path, capsys, arguments, sentence):
    places = {"FOLDER": str(photos), "EMPTY": str(tmp_path), "RUN": str(run)}
    assert main(["predict", *(places.get(word, word) for word in arguments)]) == 2
    assert sentence in capsys.readouterr().err
