"""timm loads what is exported, and cards say what was made from what."""

import tarfile

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from diffmix.classifier.model import build_model, describe, load_classifier, save_classifier
from diffmix.classifier.transforms import eval_transform
from diffmix.config import Config, ExportConfig, TrainConfig
from diffmix.storage import Folder
from engine.mixing.store import MixStore
from engine.results.cards import timm_config
from engine.results.export import export
from engine.testing import mix_table

CLASS_NAMES = ["001.Red_Fox", "<b>wolf</b>", "狐"]


def run_folder(tmp_path, **options):
    settings = {"model_name": "test_resnet", "pretrained": False, "resolution": 64, "resize": 72}
    train = TrainConfig(**{**settings, **options})
    torch.manual_seed(0)
    model = build_model(train, 3)
    out = Folder(str(tmp_path / "run"))
    save_classifier(out / "classifier", model.state_dict(), describe(train, CLASS_NAMES))
    values = {"data": {"train": "cub:/data/cub"}, "model": {"base": "some/base"}}
    values["mix"] = {"strategy": "real-mix", "strength": [0.5, 0.7], "gamma": 0.5}
    out.write("config.yaml", yaml.safe_dump(values).encode())
    out.write("summary.json", b'{"accuracy": {"top1": 0.75}}')
    return out


def exported(tmp_path, out: Folder, format: str) -> Folder:
    to = Folder(str(tmp_path / "to"))
    export(Config(out=out.uri, export=ExportConfig(to=to.uri, format=format)))
    return to


def test_timm_loads_the_folder_as_a_model_of_the_hub(tmp_path, monkeypatch):
    """The hub's files are those of the folder; the loader is timm's own."""
    out = run_folder(tmp_path)
    to = exported(tmp_path, out, "classifier")
    asked = []

    def downloaded(repo_id: str, filename: str, **_) -> str:
        asked.append((repo_id, filename))
        return f"{to.path}/{filename}"

    monkeypatch.setattr("timm.models._hub.hf_hub_download", downloaded)
    theirs = timm.create_model("hf-hub:me/birds", pretrained=True).eval()
    assert asked == [("me/birds", "config.json"), ("me/birds", "model.safetensors")]
    ours, _ = load_classifier(out / "classifier")
    assert theirs.pretrained_cfg["label_names"] == CLASS_NAMES
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("format", ["imagefolder", "webdataset", "reference"])
def test_exported_mixes_are_marked_by_option(tmp_path, format, kind):
    out = run_folder(tmp_path)
    store = MixStore((out / "mixes").uri)
    store.bind({"class_names": CLASS_NAMES})
    file = tmp_path / "red"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(file, kind)
    red = Image.open(file).getpixel((3, 3))
    store.write(0, mix_table(2, image=file.read_bytes()))
    to = tmp_path / "marked"
    export(Config(out=out.uri, export=ExportConfig(to=str(to), format=format, marked=True)))
    if format == "webdataset":
        with tarfile.open(to / "mixes-000000.tar") as tar:
            tar.extractall(to, filter="data")
    pictures = [Image.open(path) for path in [*to.rglob("*.png"), *to.rglob("*.jpg")]]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture.getexif()[0x0131] == "Diff-Mix engine"
        assert b"DigitalSourceType" in bytes(picture.info["xmp"])
        assert picture.getpixel((3, 3)) == red


@pytest.mark.parametrize(
    "options", [{}, {"model_name": "test_vit", "resolution": 80, "resize": 90}]
)
def test_timm_gives_the_same_model_and_the_same_transforms(tmp_path, options):
    out = run_folder(tmp_path, **options)
    to = exported(tmp_path, out, "classifier")
    theirs = timm.create_model(f"local-dir:{to.path}", pretrained=True).eval()
    ours, description = load_classifier(out / "classifier")
    settings = timm.data.resolve_data_config({}, model=theirs)
    transform = timm.data.create_transform(**settings)
    pixels = np.random.default_rng(0).integers(0, 255, (100, 120, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    with torch.inference_mode():
        expected = ours(eval_transform(description)(image)[None])
        found = theirs(transform(image)[None])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert theirs.pretrained_cfg["label_names"] == CLASS_NAMES


def test_a_cosine_head_is_not_for_timm(tmp_path):
    train = TrainConfig(model_name="test_resnet", pretrained=False, loss="ldam")
    assert timm_config(describe(train, CLASS_NAMES)) is None


def test_the_model_card_says_what_it_was_made_from(tmp_path):
    text = exported(tmp_path, run_folder(tmp_path), "classifier").read("README.md").decode()
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "timm"
    assert "license" not in head, "left to the user"
    for word in ("`cub:/data/cub`", "`some/base`", "0.5 0.7, 0.5", "75.0 %", "*synthetic*"):
        assert word in text


def test_exported_mixes_have_a_data_card_and_load(tmp_path):
    import datasets

    out = run_folder(tmp_path)
    store = MixStore((out / "mixes").uri)
    store.bind({"class_names": CLASS_NAMES})
    file = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(file)
    store.write(0, mix_table(5, image=file.read_bytes()))
    to = exported(tmp_path, out, "imagefolder")
    assert (to / "images" / "0001").read("00000000.png") == file.read_bytes()
    text = to.read("README.md").decode()
    assert yaml.safe_load(text.split("---")[1])["size_categories"] == ["n<1K"]
    assert "# 5 synthetic mixes of 3 classes" in text
    assert "**Every image here is synthetic.**" in text
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset("imagefolder", data_dir=to.path, cache_dir=cache)
    assert len(loaded["train"]) == 5
